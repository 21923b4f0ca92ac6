"""Record of a plan that no measurement belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splade_bench.results.result import Int, Result


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanResult(Result):
    """A plan of a training run that was not measured."""

    name: str
    """The memory mode or peer that is planned."""
    device: str
    """The kind of the planned device; it need not be here."""
    batch_size: Int
    max_length: Int
    budget_bytes: Int
    peak_bytes: Int
    live_peak_bytes: Int
    failed_operator: str | None = None
    """The first operator whose result exceeds the budget; null if the plan fits."""
    failed_phase: str | None = None
    failed_allocation_bytes: Int | None = None
    reserved_bytes: Int | None = None
    """Memory reserved when that allocation failed."""
    record_type: Literal["plan"] = "plan"
