"""The record of a part of the accelerator suite: what was tried on a device, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from splade_bench.results.result import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceleratorResult(Result):
    """A part of ``benchmarks/test_accelerator.py``, in a process of its own."""

    part: str
    """A key of :data:`splade_bench.report.accelerators.PARTS`."""
    device: str
    """cpu, cuda or mps."""
    shrunk: bool
    """Whether sizes are small, as on a CPU: times then say nothing about an accelerator."""
    rows: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    """What was tried, and its figures by names that end in their units: seconds, bytes, shares and counts. A figure
    that the device does not give is null; ``error`` is a line that says why a row has none."""
    record_type: Literal["accelerator"] = "accelerator"
