"""Regressions planted in the running code, each caught by the gate and blamed on what it is about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.isolate import WorkerError, WorkerProcess
from splade_bench.bench.protocol import CellRequest, MemoryPass
from splade_bench.gate.cells import GatedCell, gated_cells
from splade_bench.gate.rules import parse_rule
from splade_bench.gate.verdict import check, verdict_lines
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES
from splade_bench.measure.machine import taken_on
from splade_bench.results.records import CellResult

ROOT = Path(__file__).parent.parent.parent
RULES = [parse_rule("live_peak_bytes:1%")]
SWEEP = [
    *["--workload", "tiny", "--batch-sizes", "4", "--gradient-accumulation-steps", "1", "--max-steps", "2"],
    *["--memory-modes", "memory-efficient", "--memory-passes", "none"],
]


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A patch for the worker's own process, and what the gate has to say of it."""

    mode: str
    patch: str
    expected: tuple[str, ...]
    """What the failure names: the figure, and for memory the category that grew most."""


PLANTS = {
    "two percent more live bytes": Plant(
        mode="memory-efficient",
        patch="""
from splade_bench.model.encoder import SpladeEncoder
forward = SpladeEncoder.forward
def planted(self, batch, **kwargs):
    self.extra = torch.ones(SIZE // 4)
    return forward(self, batch, **kwargs)
SpladeEncoder.forward = planted
""",
        expected=("live_peak_bytes", "category activations"),
    ),
    "a logits tensor that is kept": Plant(
        mode="memory-efficient",
        patch="""
from splade_bench.model import encoder
splade_max = encoder.splade_max
kept = []
def planted(hidden, weight, bias, mask, **kwargs):
    kept[:] = [(hidden @ weight.t()).detach()]
    return splade_max(hidden, weight, bias, mask, **kwargs)
encoder.splade_max = planted
""",
        expected=("live_peak_bytes", "category logits"),
    ),
    "a lost no_grad": Plant(
        mode="minimal-memory-without-streaming-head",
        patch="""
from splade_bench.model.encoder import SpladeEncoder
SpladeEncoder.pool = SpladeEncoder.pool.__wrapped__
""",
        expected=("live_peak_bytes", "category logits"),
    ),
    "a technique that is off": Plant(
        mode="memory-efficient",
        patch="""
from dataclasses import replace
from splade_bench.grid import cell
memory_mode = cell.memory_mode
cell.memory_mode = lambda name: replace(memory_mode(name), head="eager")
""",
        expected=("live_peak_bytes", "category logits"),
    ),
    "a leak of one MiB a step": Plant(
        mode="memory-efficient",
        patch="""
from splade_bench.training.losses import SpladeLoss
with_gradient = SpladeLoss.with_gradient
kept = []
def planted(self, *arguments, **kwargs):
    kept.append(torch.ones(2**18))
    return with_gradient(self, *arguments, **kwargs)
SpladeLoss.with_gradient = planted
""",
        expected=("live_peak_bytes", "category temporaries"),
    ),
    "a loss that is not a number": Plant(
        mode="standard",
        patch="""
import splade_bench.training.losses as losses
scores = losses.scores
losses.scores = lambda q, d: scores(q, d) * (float("nan") if q.shape[1] > 1000 else 1)
""",
        expected=("status", "ok → nan"),
    ),
}


Measure = Callable[..., dict[str, GatedCell]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """The gate's cell of a mode, from a process in which a patch is at work, or from several, one a memory pass."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def measured(mode: str, patch: str, passes: Sequence[MemoryPass] = ("live",)) -> dict[str, GatedCell]:
        write_patch(tmp_path, patch)
        (cell,) = (
            Cell(**{**planned.to_dict(), "memory_mode": mode})
            for planned in PROFILES["gate"].cells()
            if planned.memory_mode == "standard"
        )
        figures: dict[str, Any] = {"status": "ok"}
        try:
            for name in passes:
                with WorkerProcess(CellRequest(cell=cell, measure=name, corpus_folder=None), timeout_s=120) as process:
                    figures |= process.wait_for("result")
        except WorkerError as failure:
            figures = failure.values
        return gated_cells([CellResult.of_cell(cell, **(taken_on() | figures))])

    return measured


def write_patch(folder: Path, patch: str) -> None:
    body = "\n".join(f"    {line}" for line in ["import torch", *patch.splitlines()])
    guard = "import sys\nif 'splade_bench.worker.cell_worker' in sys.orig_argv:\n"
    (folder / "sitecustomize.py").write_text(guard + body + "\n")


@pytest.fixture(scope="module")
def unchanged() -> dict[str, dict[str, GatedCell]]:
    """Mode -> its cell as the code is, measured once."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_regression_is_caught_and_blamed(
    name: str, measure: Measure, unchanged: dict[str, dict[str, GatedCell]]
) -> None:
    plant = PLANTS[name]
    baseline = unchanged.get(plant.mode) or measure(plant.mode, "")
    unchanged[plant.mode] = baseline
    (cell,) = baseline.values()
    size = round(0.02 * cell.figures["live_peak_bytes"]) // 4 * 4

    verdict = check(measure(plant.mode, plant.patch.replace("SIZE", str(size))), baseline, RULES)

    lines = verdict_lines(verdict)
    print(*lines, sep="\n")  # `pytest -rP` shows what reports/GATE.md has in a table
    assert verdict.exit_code == 1, lines
    assert f"-{plant.mode}-seed42  {plant.expected[0]}  " in lines[0]
    if plant.expected[0] == "status":
        assert plant.expected[1] in lines[0]
    else:
        assert lines[1].strip().startswith(plant.expected[1]), lines
    assert any("reproduce: pytest benchmarks/test_training_cells.py" in line for line in lines)


@pytest.mark.slow
def test_unchanged_code_is_measured_the_same_to_the_byte(measure: Measure) -> None:
    first, second = (measure("memory-efficient", "", ("live", "plan")) for _ in range(2))
    verdict = check(second, first, [parse_rule("live_peak_bytes:0%"), parse_rule("planned_live_peak_bytes:0%")])

    assert first == second
    assert (verdict.exit_code, verdict.evaluated) == (0, 2)


def run_sweep(folder: Path, *arguments: str, patch: str = "") -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    write_patch(folder, patch)
    return subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "benchmarks/test_training_cells.py", "-p", "no:cacheprovider"],
            *["--reports", str(folder), *SWEEP, *arguments],
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    finished = run_sweep(folder, "--memory-baseline", str(folder / "baseline.json"), "--memory-update-baseline")
    assert finished.returncode == 0, finished.stdout
    return folder / "baseline.json"


@pytest.mark.slow
def test_a_sweep_of_unchanged_code_passes(baseline: Path, tmp_path: Path) -> None:
    finished = run_sweep(tmp_path, "--memory-baseline", str(baseline))

    assert finished.returncode == 0, finished.stdout
    assert "regressions: 0, figures checked: 3" in finished.stdout


@pytest.mark.slow
def test_a_sweep_whose_quality_is_halved_fails(baseline: Path, tmp_path: Path) -> None:
    finished = run_sweep(
        tmp_path,
        *["--memory-baseline", str(baseline), "--memory-fail-on", "mrr@10:0.03"],
        patch="""
import splade_bench.worker.cell_builder as build
evaluate = build.evaluate
def planted(*arguments, **kwargs):
    figures = evaluate(*arguments, **kwargs)
    return figures | {"mrr@10": figures["mrr@10"] / 2}
build.evaluate = planted
""",
    )

    print(finished.stdout)
    assert finished.returncode == 1, finished.stdout
    assert "mrr@10" in finished.stdout.partition("REGRESSION")[2].splitlines()[0]


@pytest.mark.slow
def test_a_sweep_that_measures_nothing_fails(baseline: Path, tmp_path: Path) -> None:
    finished = run_sweep(tmp_path, "--memory-baseline", str(baseline), "-k", "no_such_cell")

    print(finished.stdout)
    assert finished.returncode == 1, finished.stdout
    assert "tiny-cpu-b4-a1-memory-efficient-seed42  status  ok → missing" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-baseline", "nowhere.json"], "nowhere.json: the baseline cannot be read"),
        (["--memory-update-baseline"], "--memory-update-baseline needs a baseline: add --memory-baseline FILE"),
    ],
)
def test_a_baseline_that_is_not_there_is_a_usage_error_before_anything_runs(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    finished = run_sweep(tmp_path, *arguments)

    assert finished.returncode == 4
    assert complaint in finished.stderr


@pytest.mark.slow
def test_a_baseline_of_another_torch_is_a_usage_error(baseline: Path, tmp_path: Path) -> None:
    record = json.loads(baseline.read_text())
    for cell in record["cells"].values():
        cell["conditions"]["torch"] = "1.0"
    (tmp_path / "other.json").write_text(json.dumps(record))

    finished = run_sweep(tmp_path, "--memory-baseline", str(tmp_path / "other.json"))

    assert finished.returncode == 4
    assert "this baseline cannot be compared on this machine: torch 1.0 →" in finished.stderr
