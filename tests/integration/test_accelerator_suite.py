"""Every part of the accelerator suite runs on a CPU, in small sizes, and its page is made from what it records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from splade_bench.report.accelerators import PARTS
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.records import CellResult, read_results

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_suite_runs_in_small_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--device", "cpu", "--profile", "accelerator"]
    finished = subprocess.run(
        [*command, "--reports", str(tmp_path), "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    assert finished.returncode == 0, finished.stdout[-4000:]
    results = read_results(sorted((tmp_path / "results").glob("*.jsonl")))
    parts = [result.part for result in results if isinstance(result, AcceleratorResult)]
    assert sorted(parts) == sorted(PARTS)
    cells = [result for result in results if isinstance(result, CellResult)]
    assert {cell.trainer for cell in cells} >= {"splade-bench", "article-trainer"}
    assert [cell.error for cell in cells if cell.status != "ok"] == []
    assert all(cell.planned_live_peak_bytes for cell in cells if cell.trainer == "splade-bench")
    page = (tmp_path / "ACCELERATORS.md").read_text(encoding="utf-8")
    assert page.count("not measured") == 7, "a CPU decides only the count of operators"
    assert "cpu, small sizes" in page
