"""The sweep: each cell trains in a fresh process and becomes one record."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.results.records import CellResult

# Smaller batches have too few negatives to learn reliably (reports/NEGATIVE.md).
LEARNING_BATCH_SIZE = 8
# How much MRR@10 must rise in each cell of these workloads: by 0.028 it rose in tiny-short at batch size 16.
LEAST_RISES = {"tiny": 0.03, "tiny-short": 0.01}


@pytest.fixture(scope="module")
def rises() -> dict[int, list[float]]:
    """Batch size -> the rise of MRR@10 in each of its cells."""
    return {}


def test_training_cell(
    cell: Cell, sweep: Sweep, measure_cell: Callable[[Cell], CellResult], rises: dict[int, list[float]]
) -> None:
    result = measure_cell(cell)

    assert result.wall_time_s is not None
    assert result.peak_rss_bytes is not None
    if sweep.max_steps is None:
        assert result.queries_seen == WORKLOADS[cell.workload].queries
    if cell.workload in LEAST_RISES and sweep.max_steps is None and cell.batch_size >= LEARNING_BATCH_SIZE:
        assert result.metrics is not None
        assert result.metrics_before is not None
        rise = result.metrics["mrr@10"] - result.metrics_before["mrr@10"]
        assert result.metrics_before["mrr@10"] >= 0.20
        assert rise >= LEAST_RISES[cell.workload]
        if cell.workload == "tiny":
            rises.setdefault(cell.batch_size, []).append(rise)


@pytest.mark.takes_long
@pytest.mark.part(minutes=0)
def test_cells_of_eight_queries_a_batch_learn(rises: dict[int, list[float]]) -> None:
    if LEARNING_BATCH_SIZE not in rises:
        pytest.skip("needs cells of the tiny workload with --batch-sizes 8 and without --max-steps")

    assert statistics.mean(rises[LEARNING_BATCH_SIZE]) >= 0.06
