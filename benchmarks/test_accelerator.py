"""An accelerator in ten minutes: the full step beside its peers, plans, errors, the head, limits, and a profile.

``pytest benchmarks --device cuda --profile accelerator --reports FOLDER`` runs these parts alone. Each has a process of
its own, and its record is written before the next one begins, so a run that is cut short keeps what it has. The page of
the records is ``reports/ACCELERATORS.md``. On a CPU the sizes are small: that shows only that every part runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from contenders import NEEDS_PEERS

from splade_bench.bench.isolate import WorkerError
from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER, PEER_MODE, Cell
from splade_bench.grid.sweep import Sweep
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.records import CellResult

pytestmark = [pytest.mark.takes_long, pytest.mark.accelerator]
GIB = 2**30
LARGEST_ERROR = 1e-4
# Of the head alone. If rounding decides which of two tokens wins an entry, the gradient goes to another one.
DECIDED_BY_ROUNDING = 0.05
MOST_OPERATORS = 1.3
SLACK = 1.05
TIMED_STEPS = 3
Part = Callable[..., AcceleratorResult]


@pytest.fixture
def device(sweep: Sweep) -> str:
    return str(sweep.devices[0])


@pytest.fixture
def part(measuring: MeasuringSession, device: str) -> Part:
    """Run a part in a fresh process and record it."""

    def run(module: str, function: str) -> AcceleratorResult:
        keywords = {"device_name": device, "shrunk": device == "cpu"}
        request = CallRequest(module=f"accelerator.{module}", function=function, keywords=keywords)
        try:
            return measuring.measure_as(AcceleratorResult, request)
        except WorkerError as error:  # said at once: pytest shows it only when all parts are done
            print(f"{function}: {error}", file=sys.__stderr__, flush=True)
            raise

    return run


# The article's algorithm comes last: at the larger batch it may not fit.
@pytest.mark.parametrize("batch_size", [32, 128])
@pytest.mark.parametrize(
    ("trainer", "size"),
    [
        (OWN_TRAINER, None),
        pytest.param("SpladeLoss", None, marks=NEEDS_PEERS),
        pytest.param("CachedSpladeLoss", 32, marks=NEEDS_PEERS),
        (ARTICLE_TRAINER, None),
    ],
)
def test_a_full_step(
    trainer: str, size: int | None, batch_size: int, device: str, record_cell: Callable[[Cell], CellResult]
) -> None:
    result = record_cell(step_cell(device, batch_size, trainer=trainer, trainer_size=size))

    assert result.status in (("ok",) if trainer == OWN_TRAINER else ("ok", "oom")), result.error


@pytest.mark.parametrize("budget_gib", [8, 16, 24])
def test_a_fit_stays_within_its_budget(budget_gib: int, device: str, record_cell: Callable[[Cell], CellResult]) -> None:
    if device == "cpu":
        pytest.skip("on a CPU, test_fit.py holds this")
    budget_bytes = budget_gib * GIB
    cell = step_cell(device, 32, memory_budget_bytes=budget_bytes, memory_limit_bytes=budget_bytes)
    result = record_cell(cell)

    assert result.status == "ok", result.error


def test_the_heads_error_is_no_larger_than_eagers(part: Part) -> None:
    for row in part("heads", "head_errors").rows:
        bound = max(SLACK * row["eager_error"], DECIDED_BY_ROUNDING)
        assert row["relative_error"] <= bound, row
        assert row.get("triton_error", 0.0) <= bound, row


def test_a_steps_gradients_are_those_of_float64(part: Part) -> None:
    rows = part("steps", "step_errors").rows
    eager = {row["precision"]: row["relative_error"] for row in rows if row["memory_mode"] == "standard"}
    for row in rows:
        bound = LARGEST_ERROR if row["precision"] == "no" else 1.5 * eager["bf16"]
        assert row["relative_error"] <= bound, row


def test_operators_of_a_step(part: Part) -> None:
    for row in part("steps", "operators").rows:
        assert row["ratio"] <= MOST_OPERATORS, row


@pytest.mark.parametrize("function", ["head_forward", "head_backward"])
def test_the_head_alone(function: str, part: Part) -> None:
    rows = part("heads", function).rows

    assert any(row.get("time_s") for row in rows), rows


def test_the_largest_batch_within_a_limit(part: Part) -> None:
    rows = part("steps", "largest_batches").rows

    assert all(row["queries"] or row.get("error") for row in rows), rows


def test_where_the_device_waits(part: Part, device: str) -> None:
    (row,) = part("steps", "gaps").rows
    if device == "cuda":
        assert row["kernels_per_step"], "the profiler saw no kernel"


def step_cell(device: str, batch_size: int, **changes: Any) -> Cell:
    """A training of BERT-base in bf16, or of a small model with fewer texts on a CPU."""
    small = device == "cpu"
    cell = Cell(
        workload="accelerator-small" if small else "accelerator",
        device=device,  # type: ignore[arg-type]
        batch_size=batch_size // 16 if small else batch_size,
        gradient_accumulation_steps=1,
        memory_mode="memory-efficient" if changes.get("trainer", OWN_TRAINER) == OWN_TRAINER else PEER_MODE,
        max_steps=2 + TIMED_STEPS,
        mixed_precision="no" if small else "bf16",  # few CPUs multiply bfloat16 in hardware
    )
    return replace(cell, **changes)
