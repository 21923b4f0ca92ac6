"""``pytest benchmarks --processes 1,2`` as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from splade_bench.results.records import CellResult, read_results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    command = [
        *[
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "benchmarks/test_training_cells.py",
            "--rounds",
            "1",
        ],
        *["--workload", "tiny-short", "--batch-sizes", "8", "--gradient-accumulation-steps", "1", "--max-steps", "3"],
        *["--memory-modes", "memory-efficient", "--processes", "1,2", "--memory-passes", "plan"],
        *["--reports", str(folder), "--memory-results", str(folder / "results.jsonl")],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "(all ranks " in finished.stdout
    return folder


@pytest.fixture(scope="module")
def cells(folder: Path) -> tuple[CellResult, CellResult]:
    one, two = read_results([folder / "results.jsonl"])
    assert isinstance(one, CellResult) and isinstance(two, CellResult)
    return one, two


def test_each_rank_has_a_peak(cells: tuple[CellResult, CellResult]) -> None:
    one, two = cells

    assert (one.processes, two.processes) == (1, 2)
    assert two.cell_id == f"{one.cell_id}-processes2"
    assert one.peaks_by_rank is one.all_ranks_peak_bytes is None
    assert two.peaks_by_rank is not None and len(two.peaks_by_rank) == 2
    first, second = two.peaks_by_rank
    assert first and second and first == two.peak_rss_bytes
    assert two.all_ranks_peak_bytes == first + second
    assert two.baseline_rss_bytes and all(peak > two.baseline_rss_bytes + 5 * 2**20 for peak in (first, second))


def test_they_train_as_one_process_does(cells: tuple[CellResult, CellResult]) -> None:
    one, two = cells

    assert one.losses and two.losses == pytest.approx(one.losses, rel=1e-5)
    assert one.queries_seen == two.queries_seen == 3 * 8
    assert one.metrics and two.metrics
    assert two.metrics["mrr@10"] == pytest.approx(one.metrics["mrr@10"], abs=1e-5)
    assert two.validation_loss == pytest.approx(one.validation_loss, rel=1e-5)


def test_the_processes_share_the_threads_and_are_no_company(cells: tuple[CellResult, CellResult]) -> None:
    one, two = cells

    assert (one.machine["threads"], two.machine["threads"]) == (2, 1)
    assert two.wall_time_s and two.cpu_time_s and two.cpu_time_s < 2.2 * two.wall_time_s
    assert two.others_cpu_time_s is None or two.others_cpu_time_s >= 0


def test_a_plan_is_that_of_a_rank(cells: tuple[CellResult, CellResult]) -> None:
    one, two = cells

    assert one.planned_live_peak_bytes and two.planned_live_peak_bytes
    # Most of it are weights, gradients and moments, which every rank has.
    assert 0.5 * one.planned_live_peak_bytes < two.planned_live_peak_bytes < 1.1 * one.planned_live_peak_bytes
    assert two.planned_live_peak_bytes != one.planned_live_peak_bytes


def test_the_report_has_a_column_of_them(folder: Path) -> None:
    page = (folder / "TRADEOFFS.md").read_text(encoding="utf-8")

    (header,) = {line for line in page.splitlines() if "peak of all ranks, MiB" in line}
    assert "processes" in [heading.strip() for heading in header.split("|")]
