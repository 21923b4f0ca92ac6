"""Results that a test needs: a small cell that ended well, or a call, with what the test changes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from splade_bench.grid.cell import Cell
from splade_bench.results.records import CallResult, CellResult

MIB = 2**20
CELL = Cell(workload="tiny", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")
_CELL_FIELDS = {field.name for field in fields(Cell)}


def make_cell_result(cell: Cell = CELL, **changes: Any) -> CellResult:
    """A result of ``cell``, with ``changes`` to fields of the result or of the cell, whose name follows them."""
    cell = replace(cell, **{name: changes.pop(name) for name in _CELL_FIELDS & changes.keys()})
    return replace(CellResult.of_cell(cell, status="ok"), **changes)


def make_call_result(name: str = "tests/test_x.py::test_it: touch", **changes: Any) -> CallResult:
    """A result of a call that ended well."""
    return replace(CallResult(name=name, status="ok"), **changes)
