"""The planner's predictions compared with measurements, over models, lengths, batches, modes and optimizers.

The page of the results is ``reports/PLANNER.md``. All figures are memory, not time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.report.planner import (
    LIVE_LIMIT,
    MEMORY_BELOW_LIMIT,
    MEMORY_LIMIT,
    MEMORY_SHARE,
    PlannedCell,
    planned_cells,
)
from splade_bench.results.records import CellResult


def make_cell(workload: str, batch_size: int, memory_mode: str, **changes: Any) -> Cell:
    fields: dict[str, Any] = {"gradient_accumulation_steps": 1, "attention_dropout": 0.1, "max_steps": 2} | changes
    return Cell(workload=f"plan-{workload}", device="cpu", batch_size=batch_size, memory_mode=memory_mode, **fields)


pytestmark = pytest.mark.part("plans", minutes=3)

CELLS = (
    *(make_cell("bert-tiny-32", batch, mode) for batch in (1, 16) for mode in ("standard", "memory-efficient")),
    *(make_cell("bert-tiny-128", 8, mode) for mode in ("standard", "article", "memory-efficient", "minimal-memory")),
    make_cell("bert-tiny-512", 4, "memory-efficient"),
    make_cell("mini-32", 16, "memory-efficient"),
    make_cell("mini-32", 4, "standard"),
    make_cell("mini-128", 4, "standard"),
    make_cell("mini-128", 4, "standard", attention_dropout=0.0),
    make_cell("mini-128", 8, "memory-efficient"),
    make_cell("mini-128", 8, "memory-efficient", attention_dropout=0.0),
    make_cell("mini-128", 8, "memory-efficient+activation-checkpointing"),
    make_cell("mini-128", 8, "memory-efficient+optimizer-states-bfloat16"),
    make_cell("mini-128", 8, "memory-efficient+optimizer-states-disk"),
    make_cell("mini-128", 4, "memory-efficient", gradient_accumulation_steps=4),
    make_cell("mini-128", 4, "standard", gradient_accumulation_steps=4),
    make_cell("mini-128", 2, "memory-efficient", mixed_precision="bf16"),
    make_cell("mini-512", 4, "memory-efficient"),
    make_cell("mini-512", 4, "minimal-memory"),
    make_cell("base-32", 8, "memory-efficient"),
    make_cell("base-32", 8, "standard"),
    make_cell("base-128", 4, "memory-efficient"),
    make_cell("base-512", 2, "memory-efficient"),
    make_cell("base-512", 2, "minimal-memory"),
)


@pytest.fixture(scope="module")
def planned(record_cell: Callable[[Cell], CellResult]) -> Sequence[PlannedCell]:
    results = [record_cell(cell) for cell in CELLS]
    assert {result.status for result in results} == {"ok"}
    cells = planned_cells(results)
    assert len(cells) == len(CELLS)
    return cells


@pytest.mark.takes_long
def test_live_bytes_are_as_planned(planned: Sequence[PlannedCell]) -> None:
    assert {cell.cell_id: cell.live_error for cell in planned if abs(cell.live_error) > LIVE_LIMIT} == {}


@pytest.mark.takes_long
def test_resident_memory_is_as_planned(planned: Sequence[PlannedCell]) -> None:
    near = [cell for cell in planned if abs(cell.memory_error) <= MEMORY_LIMIT]

    assert len(near) >= MEMORY_SHARE * len(planned)


@pytest.mark.takes_long
def test_no_plan_is_far_too_low(planned: Sequence[PlannedCell]) -> None:
    assert {cell.cell_id: cell.memory_error for cell in planned if cell.memory_error < -MEMORY_BELOW_LIMIT} == {}
