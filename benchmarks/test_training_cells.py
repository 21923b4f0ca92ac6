"""Device x batch size x accumulation x memory mode: each cell trains in a fresh process and becomes one record."""

from __future__ import annotations

from collections.abc import Callable

from splade_bench.cell import Cell
from splade_bench.results import CellResult


def test_training_cell(cell: Cell, measure_cell: Callable[[Cell], CellResult]) -> None:
    result = measure_cell(cell)

    assert result.status == "ok"
    assert result.wall_time_s is not None and result.peak_rss_bytes is not None
