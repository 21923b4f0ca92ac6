"""Regressions planted in the running code, each caught by the gate and blamed on what it is about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GATE = ["--profile", "gate", "--gradient-accumulation-steps", "1", "--memory-passes", "live"]
# Quality needs a corpus; two steps of it are enough to see a halved figure.
RANKED = [
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
        mode="minimal-memory",
        patch="""
from splade_bench.model.encoder import SpladeEncoder
SpladeEncoder.pool = SpladeEncoder.pool.__wrapped__
""",
        expected=("live_peak_bytes", "category activations"),
    ),
    "a technique that is off": Plant(
        mode="memory-efficient",
        patch="""
from dataclasses import replace
from splade_bench import cell
memory_mode = cell.memory_mode
cell.memory_mode = lambda name: replace(memory_mode(name), head="eager")
""",
        expected=("live_peak_bytes", "category logits"),
    ),
    "a leak of one MiB a step": Plant(
        mode="memory-efficient",
        patch="""
from splade_bench.losses import SpladeLoss
call = SpladeLoss.__call__
kept = []
def planted(self, *arguments, **kwargs):
    kept.append(torch.ones(2**18))
    return call(self, *arguments, **kwargs)
SpladeLoss.__call__ = planted
""",
        expected=("live_peak_bytes", "category temporaries"),
    ),
    "a loss that is no number": Plant(
        mode="standard",
        patch="""
import splade_bench.losses as losses
contrastive = losses.contrastive_loss
losses.contrastive_loss = lambda q, d: contrastive(q, d) * (float("nan") if q.shape[1] > 1000 else 1)
""",
        expected=("status", "ok → nan"),
    ),
}


def run_sweep(folder: Path, *arguments: str, patch: str = "") -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    if patch:
        body = "\n".join(f"    {line}" for line in ["import torch", *patch.splitlines()])
        guard = "import sys\nif 'splade_bench.bench.worker' in sys.orig_argv:\n"
        (folder / "sitecustomize.py").write_text(guard + body + "\n")
    return subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "benchmarks/test_training_cells.py", "-p", "no:cacheprovider"],
            *["--reports", str(folder), *arguments],
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A baseline of each mode's cell by itself, all measured in one run of the code as it is."""
    folder = tmp_path_factory.mktemp("baselines")
    whole = folder / "whole.json"
    modes = sorted({plant.mode for plant in PLANTS.values()})
    finished = run_sweep(
        folder,
        *[*GATE, "--memory-modes", ",".join(modes)],
        *["--memory-baseline", str(whole), "--memory-update-baseline"],
    )
    assert finished.returncode == 0, finished.stdout
    record = json.loads(whole.read_text())
    paths = {"whole": whole}
    for mode in modes:
        cells = {name: cell for name, cell in record["cells"].items() if f"-{mode}-seed" in name}
        assert len(cells) == 1
        paths[mode] = folder / f"{mode}.json"
        paths[mode].write_text(json.dumps(record | {"cells": cells}))
    return paths


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_regression_is_caught_and_blamed(name: str, baselines: dict[str, Path], tmp_path: Path) -> None:
    plant = PLANTS[name]
    (cell,) = json.loads(baselines[plant.mode].read_text())["cells"].values()
    size = round(0.02 * cell["figures"]["live_peak_bytes"]) // 4 * 4
    finished = run_sweep(
        tmp_path / "run",
        *[*GATE, "--memory-modes", plant.mode, "--memory-baseline", str(baselines[plant.mode])],
        *["--memory-fail-on", "live_peak_bytes:1%", "--memory-fail-on", "final_loss:5%"],
        patch=plant.patch.replace("SIZE", str(size)),
    )

    assert finished.returncode == 1, finished.stdout
    report = finished.stdout.partition("memory baseline")[2]
    line = next(line for line in report.splitlines() if line.startswith("REGRESSION"))
    assert f"-{plant.mode}-seed42  {plant.expected[0]}  " in line
    grown = [line for line in report.splitlines() if "category " in line]
    if plant.expected[0] == "status":
        assert plant.expected[1] in line
    else:
        assert grown[0].strip().startswith(plant.expected[1]), report
    assert "reproduce: pytest benchmarks/test_training_cells.py" in report


def test_unchanged_code_passes_and_a_dropped_cell_does_not(baselines: dict[str, Path], tmp_path: Path) -> None:
    finished = run_sweep(
        tmp_path / "run", *GATE, "--memory-modes", "memory-efficient", "--memory-baseline", str(baselines["whole"])
    )

    assert finished.returncode == 1, finished.stdout
    report = finished.stdout.partition("memory baseline")[2]
    failures = [line for line in report.splitlines() if line.startswith("REGRESSION")]
    assert len(failures) == 2
    assert all("status  ok → missing" in line for line in failures)


def test_a_halved_quality_is_caught(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    made = run_sweep(tmp_path / "before", *RANKED, "--memory-baseline", str(baseline), "--memory-update-baseline")
    assert made.returncode == 0, made.stdout

    finished = run_sweep(
        tmp_path / "after",
        *[*RANKED, "--memory-baseline", str(baseline), "--memory-fail-on", "mrr@10:0.03"],
        patch="""
import splade_bench.bench.build as build
evaluate = build.evaluate
def planted(*arguments, **kwargs):
    figures = evaluate(*arguments, **kwargs)
    return figures | {"mrr@10": figures["mrr@10"] / 2}
build.evaluate = planted
""",
    )

    assert finished.returncode == 1, finished.stdout
    assert "mrr@10" in finished.stdout.partition("REGRESSION")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-baseline", "nowhere.json"], "nowhere.json: the baseline cannot be read"),
        (["--memory-update-baseline"], "--memory-update-baseline: name the file with --memory-baseline"),
    ],
)
def test_a_baseline_that_is_not_there_is_a_usage_error_before_anything_runs(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    finished = run_sweep(tmp_path / "run", *GATE, *arguments)

    assert finished.returncode == 4
    assert complaint in finished.stderr


def test_a_baseline_of_another_torch_is_a_usage_error(baselines: dict[str, Path], tmp_path: Path) -> None:
    record = json.loads(baselines["whole"].read_text())
    for cell in record["cells"].values():
        cell["conditions"]["torch"] = "1.0"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record))

    finished = run_sweep(tmp_path / "run", *GATE, "--memory-baseline", str(other))

    assert finished.returncode == 4
    assert "nothing in it can be compared here: torch 1.0 →" in finished.stderr
