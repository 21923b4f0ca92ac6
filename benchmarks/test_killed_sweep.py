"""A sweep whose pytest is killed again and again: no finished cell is lost, and no cell runs twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from splade_bench.results.records import CellResult, read_results

KILLS = 20
# 48 cells of a second each, besides the start of their process.
AXES = [
    *["--workload", "head", "--max-steps", "2", "--memory-passes", "none"],
    *["--batch-sizes", "1,2,3,4", "--gradient-accumulation-steps", "1,2", "--seeds", "1,2"],
    *["--memory-modes", "standard,article,memory-efficient", "--rounds", "1"],
]
CELLS = 48


@pytest.mark.takes_long
@pytest.mark.part(minutes=10)
def test_killed_at_twenty_moments_a_sweep_loses_nothing_and_repeats_nothing(
    reports_folder: Path, tmp_path: Path
) -> None:
    results_path = tmp_path / "killed.jsonl"
    log = []
    kept = 0
    for number, (new_cells, wait_s) in enumerate(_moments(), 1):
        before = _cells(results_path)
        start_s = time.perf_counter()
        sweep = _start(results_path, tmp_path)
        while sweep.poll() is None and len(_cells(results_path)) < len(before) + new_cells:
            time.sleep(0.1)
        time.sleep(wait_s)
        over = sweep.poll() is not None
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        after = _cells(results_path)
        killed_after_s = time.perf_counter() - start_s
        log.append(
            f"kill {number}: after {killed_after_s:.1f} s, {len(before)} cells recorded before, {len(after)} after"
        )
        assert after[: len(before)] == before  # recorded cells are not lost
        kept += len(after) > len(before)
        if over:
            break
    kills = len(log)
    finished = _start(results_path, tmp_path)
    assert finished.wait(timeout=1200) == 0
    cells = _cells(results_path)
    runs = Counter((cell.cell_id, cell.seed) for cell in cells)
    log.append(f"resumed to the end: {len(cells)} cells recorded, of {len(runs)} different grid points and seeds")
    (reports_folder / "killed-sweep.log").write_text("\n".join(log) + "\n")

    assert kills == KILLS
    assert kept >= KILLS / 2  # else few kills came after a cell was recorded
    assert len(runs) == CELLS
    assert set(runs.values()) == {1}
    assert {cell.status for cell in cells} == {"ok"}


def _moments() -> list[tuple[int, float]]:
    """When to kill pytest: after a number of new cells, plus seconds in which it starts up or is in the next cell."""
    generator = random.Random(5)
    return [(generator.choice((0, 1, 1, 2)), generator.uniform(0.2, 8.0)) for _ in range(KILLS)]


def _start(results_path: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        *[sys.executable, "-m", "pytest", "benchmarks/test_training_cells.py", "-q", *AXES],
        *["--memory-results", str(results_path), "--resume", "--reports", str(folder)],
    ]
    return subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _cells(path: Path) -> list[CellResult]:
    results = read_results([path]) if path.exists() else []
    return [result for result in results if isinstance(result, CellResult)]
