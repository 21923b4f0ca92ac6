"""``pytest benchmarks`` as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splade_bench.pytest_plugin.sweep import require_one_package
from splade_bench.results.records import read_results

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent.parent
SWEEP = "benchmarks/test_training_cells.py"


def run_here(pytester: pytest.Pytester, *arguments: str, target: str = "benchmarks") -> pytest.RunResult:
    """Run the benchmarks in this process: for runs that end before anything is measured."""
    command = ("-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"))
    return pytester.runpytest_inprocess(*command, str(ROOT / target), *arguments)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_this_machine_does_not_have_is_a_usage_error(pytester: pytest.Pytester, device: str) -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")

    finished = run_here(pytester, "--device", device)

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--device {device}: this machine has only cpu" in finished.stderr.str()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch-sizes", "2,x"], "--batch-sizes 2,x: write whole numbers"),
        (["--workload", "huge"], "--workload huge: no such workload"),
        (["--memory-modes", "fast"], "--memory-modes fast: no such mode"),
        (["--max-steps", "0"], "--max-steps 0"),
        (["--processes", "1,two"], "--processes 1,two: write whole numbers"),
        (["--processes", "0"], "--processes 0"),
        (["--processes", "2", "--device", "mps"], "--processes 2: MPS trains in one process"),
        (["--resume"], "--resume needs --memory-results FILE"),
        (["--shard", "9/8"], "--shard 9/8: the first number must be from 1 to the second one"),
        (["--shard", "1/500"], "--shard 1/500: there are only"),
        (["--shard", "1/2", "--memory-baseline", "b.json"], "--shard 1/2: a baseline needs the results of all shards"),
    ],
)
def test_axes_that_cannot_be_run_are_usage_errors(
    pytester: pytest.Pytester, arguments: list[str], complaint: str
) -> None:
    finished = run_here(pytester, *arguments)

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in finished.stderr.str()


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("b8 and memory-efficient and seed2", ["tiny-short-cpu-b8-a1-memory-efficient-seed2"]),
        ("a1 and standard and b4", ["tiny-short-cpu-b4-a1-standard-seed1", "tiny-short-cpu-b4-a1-standard-seed2"]),
    ],
)
def test_a_test_has_the_name_of_its_cell_and_is_selected_by_its_axes(
    pytester: pytest.Pytester, selection: str, names: list[str]
) -> None:
    axes = ("--batch-sizes", "4,8", "--gradient-accumulation-steps", "1", "--seeds", "1,2")

    finished = run_here(pytester, *axes, "--collect-only", "-q", "-k", selection, target=SWEEP)

    assert finished.ret == 0, finished.stdout.str()
    assert [line.split("::")[1] for line in finished.outlines if "::" in line] == [
        f"test_training_cell[{name}]" for name in names
    ]


@pytest.mark.parametrize(
    ("axes", "rounds"),
    [
        (["--memory-modes", "standard,article"], ["-round1", "-round2"]),
        (["--memory-modes", "standard,article", "--rounds", "1"], [""]),
        (["--memory-modes", "standard"], [""]),
        (["--memory-modes", "standard", "--rounds", "2"], ["-round1", "-round2"]),
    ],
)
def test_modes_that_are_compared_run_in_rounds(pytester: pytest.Pytester, axes: list[str], rounds: list[str]) -> None:
    grid = ("--batch-sizes", "4", "--gradient-accumulation-steps", "1")

    finished = run_here(pytester, *grid, *axes, "--collect-only", "-q", "-k", "standard", target=SWEEP)

    names = [line.split("::")[1] for line in finished.outlines if "::" in line]
    assert names == [f"test_training_cell[tiny-short-cpu-b4-a1-standard{number}]" for number in rounds]


def test_each_number_of_processes_makes_a_cell_and_a_part(pytester: pytest.Pytester) -> None:
    axes = ("--profile", "smoke", "--processes", "1,2", "--collect-only", "-q")

    everything = run_here(pytester, *axes, target=SWEEP).outlines
    shards = [run_here(pytester, *axes, "--shard", f"{number}/2", target=SWEEP).outlines for number in (1, 2)]

    def cells(lines: list[str]) -> list[str]:
        return [line.partition("[")[2] for line in lines if "::test_training_cell[" in line]

    assert len(cells(everything)) == 2 * len([name for name in cells(everything) if "-processes2]" in name]) == 4
    assert sorted(name for lines in shards for name in cells(lines)) == sorted(cells(everything))
    for lines in shards:  # modes that are compared stay together
        parts = {name.replace("memory-efficient", "standard") for name in cells(lines)}
        assert 2 * len(parts) == len(cells(lines))


def test_the_limit_of_a_run_is_in_the_names_of_its_cells(pytester: pytest.Pytester) -> None:
    limit = ("--memory-limit", "1GiB", "--profile", "gate")

    finished = run_here(pytester, *limit, "--collect-only", "-q", target=SWEEP)

    assert "test_training_cell[gate-cpu-b4-a2-standard-limit1024MiB]" in finished.stdout.str()


def test_a_checkout_is_not_measured_with_the_code_of_another(tmp_path: Path) -> None:
    (tmp_path / "splade_bench").mkdir()
    require_one_package(tmp_path / "splade_bench", ROOT / "splade_bench")  # a folder of that name, but not a package
    (tmp_path / "splade_bench" / "__init__.py").touch()

    with pytest.raises(
        pytest.UsageError, match=r"this is not the splade_bench of this checkout.*pip install --editable \."
    ):
        require_one_package(tmp_path / "splade_bench", ROOT / "splade_bench")
    require_one_package(ROOT / "splade_bench", ROOT / "splade_bench")
    require_one_package(tmp_path / "elsewhere", ROOT / "splade_bench")


def test_a_file_with_other_content_is_not_appended_to(pytester: pytest.Pytester) -> None:
    notes = pytester.path / "notes.jsonl"
    notes.write_text('{"my": "notes"}\n')

    finished = run_here(pytester, "--memory-results", str(notes))

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert "notes.jsonl:1: is not a result record" in finished.stderr.str()
    assert notes.read_text() == '{"my": "notes"}\n'


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Three cells: one is killed in training and one runs out of memory, by a patch in the worker's process."""
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
    command = [
        *[sys.executable, "-m", "pytest", "-p", "no:cacheprovider", SWEEP, "--memory-passes", "heap"],
        *["--workload", "head", "--batch-sizes", "2", "--gradient-accumulation-steps", "1", "--max-steps", "12"],
        *["--memory-modes", "standard,article,memory-efficient", "--rounds", "1"],
        *["--reports", str(folder), "--benchmark-json", str(folder / "benchmark.json")],
    ]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300), folder


@pytest.mark.slow
def test_every_cell_is_recorded_with_any_status(sweep: tuple[Any, Path]) -> None:
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


@pytest.mark.slow
def test_only_cells_that_are_ok_are_timed_and_their_time_is_that_of_the_training(sweep: tuple[Any, Path]) -> None:
    _, folder = sweep
    (path,) = (folder / "results").glob("*.jsonl")
    (recorded,) = (result for result in read_results([path]) if result.status == "ok")

    (timed,) = json.loads((folder / "benchmark.json").read_text())["benchmarks"]

    assert timed["extra_info"]["peak_rss_bytes"] == recorded.peak_rss_bytes
    assert timed["params"]["memory_mode"] == "memory-efficient"
    assert recorded.wall_time_s is not None
    assert timed["stats"]["mean"] == pytest.approx(recorded.wall_time_s, rel=0.01, abs=0.01)


@pytest.mark.slow
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


@pytest.mark.slow
def test_each_cell_has_a_line_and_the_report_comes_at_the_end(sweep: tuple[Any, Path]) -> None:
    finished, folder = sweep

    assert "head-cpu-b2-a1-memory-efficient  ok" in finished.stdout
    assert "[3/3, 0.0 s left]" in finished.stdout
    assert f"report: {folder / 'TRADEOFFS.md'}" in finished.stdout
    assert "killed" in (folder / "TRADEOFFS.md").read_text(encoding="utf-8")
