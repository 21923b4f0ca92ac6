"""The probes of memory: what each reads, how near a known amount it must come, and how alike in equal processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splade_bench.report.tables import above
from splade_bench.results.records import Measurement


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A figure, and how near it must be."""

    name: str
    """In a table's heading."""
    figure: str
    """As in a results file."""
    read_bytes: Callable[[Measurement], int | None]
    """What it says of what was measured: of resident memory, that above the baseline."""
    calibration_limit: float
    """Largest error of a known amount, relative."""
    spread_limit: float | None = None
    """Largest spread over fresh processes, relative to the median; None: reported only."""
    spread_floor_bytes: int = 0
    """A spread of so much is always allowed."""

    def spread_holds(self, values: Sequence[int]) -> bool:
        """Whether the largest and the smallest are as near as they must be."""
        spread_bytes = max(values) - min(values)
        assert self.spread_limit is not None
        return spread_bytes <= max(self.spread_limit * statistics.median(values), self.spread_floor_bytes)


PROBES: Sequence[Probe] = (
    Probe(
        name="RSS",
        figure="peak_rss_bytes",
        read_bytes=lambda result: above(result.peak_rss_bytes, result.baseline_rss_bytes),
        calibration_limit=0.01,
    ),
    Probe(
        name="sampled",
        figure="sampled_peak_rss_bytes",
        read_bytes=lambda result: above(result.sampled_peak_rss_bytes, result.baseline_rss_bytes),
        calibration_limit=0.02,
    ),
    Probe(
        name="pinned",
        figure="pinned_peak_rss_bytes",
        read_bytes=lambda result: above(result.pinned_peak_rss_bytes, result.pinned_baseline_rss_bytes),
        calibration_limit=0.01,
        spread_limit=0.01,
        spread_floor_bytes=2 * 2**20,
    ),
    Probe(
        name="memray",
        figure="memray_peak_bytes",
        read_bytes=lambda result: result.memray_peak_bytes,
        calibration_limit=0.001,
        spread_limit=0.001,
    ),
    Probe(
        name="live tensors",
        figure="live_peak_bytes",
        read_bytes=lambda result: result.live_peak_bytes,
        calibration_limit=0.001,
        spread_limit=0.001,
    ),
)
