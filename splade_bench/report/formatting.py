"""How the pages write numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from splade_bench.units import as_gib, as_mib

MISSING = "—"
MRR_EQUAL_WITHIN = 0.01
"""A smaller difference in MRR@10 counts as none."""


def number(value: float | None, form: str = ".2f") -> str:
    """A number for a table; a dash if there is none."""
    return MISSING if value is None else format(value, form)


def mib(size_bytes: float | None) -> str:
    """Bytes as whole MiB, for a column whose heading names the unit."""
    return MISSING if size_bytes is None else f"{as_mib(size_bytes):.0f}"


def gib(size_bytes: float | None) -> str:
    """Bytes as GiB with two decimals, in the same way."""
    return MISSING if size_bytes is None else f"{as_gib(size_bytes):.2f}"


def median_and_range(values: Sequence[float], form: str) -> str:
    """``median (min to max)``; the median alone where all three look the same; a dash for no values."""
    if not values:
        return MISSING
    middle, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
