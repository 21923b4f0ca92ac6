"""``pytest benchmarks`` as people run it, in a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splade_bench.pytest_plugin.sweep import _require_one_package
from splade_bench.results.records import read_results

ROOT = Path(__file__).parent.parent.parent


def run_pytest(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_a_usage_error(device: str) -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")

    finished = run_pytest("benchmarks", "--device", device)

    assert finished.returncode == 4
    assert f"--device {device}: this machine has cpu only" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch-sizes", "2,x"], "--batch-sizes 2,x: write whole numbers"),
        (["--workload", "huge"], "--workload huge: no such workload"),
        (["--memory-modes", "fast"], "--memory-modes fast: no such mode"),
        (["--max-steps", "0"], "--max-steps 0"),
        (["--resume"], "--resume: name the file to go on with, --memory-results FILE"),
    ],
)
def test_axes_that_cannot_be_run_are_usage_errors(arguments: list[str], complaint: str) -> None:
    finished = run_pytest("benchmarks", *arguments)

    assert finished.returncode == 4
    assert complaint in finished.stderr


def test_figures_of_one_checkout_are_not_taken_with_the_code_of_another(tmp_path: Path) -> None:
    (tmp_path / "splade_bench").mkdir()
    _require_one_package(tmp_path / "splade_bench", ROOT / "splade_bench")  # no package, but a clone of that name
    (tmp_path / "splade_bench" / "__init__.py").touch()

    with pytest.raises(pytest.UsageError, match=r"is not the package of this checkout.*pip install --editable \."):
        _require_one_package(tmp_path / "splade_bench", ROOT / "splade_bench")
    _require_one_package(ROOT / "splade_bench", ROOT / "splade_bench")
    _require_one_package(tmp_path / "elsewhere", ROOT / "splade_bench")


def test_a_file_that_holds_something_else_is_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"my": "notes"}\n')

    finished = run_pytest("benchmarks", "--memory-results", str(tmp_path / "notes.jsonl"))

    assert finished.returncode == 4
    assert "notes.jsonl:1: is not a result record" in finished.stderr
    assert (tmp_path / "notes.jsonl").read_text() == '{"my": "notes"}\n'


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Three cells of which one dies in training, by a patch in the worker's own process."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'splade_bench.worker.cell_worker' in sys.orig_argv:\n"
        "    from splade_bench.training import trainer\n"
        "    train = trainer.Trainer.train\n"
        "    def dying(self):\n"
        "        if self.config.memory.garbage_collection_interval and self.encoder.vocab_size > 1000:\n"
        "            os.abort()\n"
        "        if self.config.memory.head == 'eager' and self.encoder.vocab_size > 1000:\n"
        "            raise MemoryError('planted')\n"
        "        return train(self)\n"
        "    trainer.Trainer.train = dying\n"
    )
    finished = run_pytest(
        "benchmarks/test_training_cells.py",
        *["--workload", "head", "--batch-sizes", "2", "--gradient-accumulation-steps", "1", "--max-steps", "12"],
        *["--memory-modes", "standard,article,memory-efficient"],
        *["--reports", str(folder), "--benchmark-json", str(folder / "benchmark.json")],
        environment={"PYTHONPATH": str(folder)},
    )
    return finished, folder


def test_every_cell_is_a_row_whatever_became_of_it(sweep: tuple[Any, Path]) -> None:
    finished, folder = sweep
    (path,) = (folder / "results").glob("*-default.jsonl")

    results = {result.memory_mode: result for result in read_results([path])}

    assert {mode: result.status for mode, result in results.items()} == {
        "standard": "oom",
        "article": "killed",
        "memory-efficient": "ok",
    }
    assert "planted" in str(results["standard"].error)
    assert "1 passed" in finished.stdout and "1 failed" in finished.stdout and "1 xfailed" in finished.stdout
    assert finished.returncode == 1


def test_only_finished_cells_enter_the_timing_and_their_time_is_the_trainings(sweep: tuple[Any, Path]) -> None:
    _, folder = sweep
    (path,) = (folder / "results").glob("*.jsonl")
    (recorded,) = (result for result in read_results([path]) if result.status == "ok")

    (timed,) = json.loads((folder / "benchmark.json").read_text())["benchmarks"]

    assert timed["extra_info"]["peak_rss_bytes"] == recorded.peak_rss_bytes
    assert timed["params"]["memory_mode"] == "memory-efficient"
    assert recorded.wall_time_s is not None
    assert timed["stats"]["mean"] == pytest.approx(recorded.wall_time_s, rel=0.01, abs=0.01)


def test_pytest_benchmem_reads_the_memory_of_a_cell(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmem", reason="needs Python 3.11")
    _, folder = sweep
    (path,) = (folder / "results").glob("*.jsonl")
    (recorded,) = (result for result in read_results([path]) if result.status == "ok")
    other = tmp_path / "other.json"
    record = json.loads((folder / "benchmark.json").read_text())
    record["benchmarks"][0]["extra_info"]["benchmem"]["peak_bytes"] = [2 * recorded.memray_peak_bytes]
    other.write_text(json.dumps(record))

    files = [str(folder / "benchmark.json"), str(other)]

    def benchmem(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from pytest_benchmem.cli import app; app()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    compared = benchmem("compare", *files, "--columns", "peak,allocated,allocations,rss")
    plotted = benchmem("plot", *files, "--columns", "peak", "--output", str(tmp_path / "plot.html"))

    assert compared.returncode == 0, compared.stderr
    assert "memory-efficient" in compared.stdout and "(2.00)" in compared.stdout
    assert f"{recorded.memray_allocations:,}" in compared.stdout
    assert plotted.returncode == 0, plotted.stderr


def test_a_line_a_cell_is_shown_and_the_report_at_the_end(sweep: tuple[Any, Path]) -> None:
    finished, folder = sweep

    assert "head-cpu-b2-a1-memory-efficient  ok" in finished.stdout
    assert "[3/3, 0.0 s left]" in finished.stdout
    assert f"report: {folder / 'TRADEOFFS.md'}" in finished.stdout
    assert "killed" in (folder / "TRADEOFFS.md").read_text(encoding="utf-8")
