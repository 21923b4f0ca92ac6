"""The time of ``splade-bench check`` for a thousand cells, as a process of its own with start and imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.files import append_line
from splade_bench.gate.baseline import write_baseline
from splade_bench.gate.cells import gated_cells
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult

CELLS = 1000
RUNS = 5
AT_MOST_S = 2.0
MIB = 2**20


def make_result(seed: int) -> CellResult:
    """A record as long as one with the figures of all default passes."""
    cell = Cell(
        workload="tiny",
        device="cpu",
        batch_size=8,
        gradient_accumulation_steps=4,
        memory_mode="memory-efficient",
        seed=seed,
    )
    figures = {"peak_rss_bytes": 500 * MIB + seed, "live_peak_bytes": 90 * MIB + seed, "memray_peak_bytes": 99 * MIB}
    categories = ("parameters", "gradients", "optimizer", "activations", "logits", "temporaries", "inputs")
    sites = [f"splade_bench/model/encoder.py:{line} forward" for line in range(100, 110)]
    return CellResult.of_cell(
        cell,
        status="ok",
        **figures,
        machine={"system": "Linux", "processor": "any", "threads": 2, "memory_bytes": 2**33, "device": "cpu"},
        versions={"torch": "2.13.0+cpu", "python": "3.11.7", "memray": "1.20.0"},
        final_loss=1.5,
        losses=[1.5 + step / 7 for step in range(50)],
        metrics={name: 0.123456789 for name in ("mrr@10", "p@1", "ndcg@10", "recall@100")},
        live_peak_by_category=dict.fromkeys(categories, 10 * MIB),
        live_peak_by_phase=dict.fromkeys(("forward", "loss", "backward", "optimizer_step"), 90 * MIB),
        memray_top_sites=[{"site": site, "size_bytes": MIB, "allocations": 3} for site in sites],
        started_at="2026-01-01T00:00:00Z",
        session="one",
        test_id="benchmarks/test_training_cells.py::test_training_cell[cpu-b8-a4-memory-efficient]",
    )


@pytest.mark.takes_long
def test_a_thousand_cells_are_checked_within_two_seconds(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke checks no times: it may run on busy machines")
    results = [make_result(seed) for seed in range(CELLS)]
    write_baseline(tmp_path / "baseline.json", gated_cells(results))
    # One regression to find.
    results[-1] = replace(results[-1], live_peak_bytes=180 * MIB)
    append_line(tmp_path / "results.jsonl", "\n".join(result.to_json() for result in results))
    command = [
        *[sys.executable, "-m", "splade_bench", "check", "--results", str(tmp_path / "results.jsonl")],
        *["--baseline", str(tmp_path / "baseline.json")],
    ]

    times_s = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        finished = subprocess.run(command, capture_output=True, text=True)
        times_s.append(time.perf_counter() - start_s)

    assert finished.returncode == 1, finished.stderr
    assert f"regressions: 1, figures checked: {4 * CELLS}" in finished.stdout
    assert statistics.median(times_s) <= AT_MOST_S, times_s
    print(f"splade-bench check, {CELLS} cells: {min(times_s):.2f} to {max(times_s):.2f} s")
