"""The figures of a measurement, a row each: what the gate, `compare`, the reports, `doctor` and pytest know of them.

A new figure is a row here, the field of the record that holds it, and the code that takes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from splade_bench.results.conditions import Level
from splade_bench.results.records import CellResult, Measurement
from splade_bench.units import format_bytes

Unit = Literal["bytes", "seconds", "per second", "none"]
# A figure of the table, or a function that makes one of what a result holds.
Reader = Callable[[CellResult], float | None]
_TEXTS: Mapping[Unit, Callable[[float], str]] = {
    "bytes": format_bytes,
    "seconds": "{:.2f} s".format,
    "per second": "{:.1f}/s".format,
    "none": "{:.4f}".format,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How near to a known amount an instrument that reads memory must come, and to itself in equal processes."""

    name: str
    """In a table's heading."""
    source: str
    """Where it reads."""
    calibration_limit: float
    """Largest error of a known amount, relative."""
    spread_limit: float | None = None
    """Largest spread over fresh processes, relative to the median; None: reported only."""
    spread_floor_bytes: int = 0
    """This spread is always allowed."""

    def spread_holds(self, values: Sequence[float]) -> bool:
        """Whether the largest and the smallest are as near as they must be."""
        assert self.spread_limit is not None
        return max(values) - min(values) <= max(self.spread_limit * statistics.median(values), self.spread_floor_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured number. Called with a result, it is the number there, or None where it was not measured."""

    name: str
    """As in a results file; a retrieval metric by its own name."""
    heading: str
    """In a table, where the unit follows."""
    unit: Unit = "bytes"
    larger_is_worse: bool = True
    comparable: Level | None = None
    """Where the gate may compare it with a baseline's; None: it is not gated."""
    over_runs: Callable[[Sequence[float]], float] = min
    """How the gate makes one number of several runs. A peak that does not vary: the largest, so that none can hide."""
    memory_pass: str | None = None
    """The memory pass that takes it; None: it is taken in the timed process."""
    runtime: str | None = None
    """The field with the runtime memory that the figure includes."""
    column: Literal["always", "known"] | None = None
    """Whether the table of cells has a column of it: always, or where a cell has it."""
    probe: Probe | None = None
    derived: Reader | None = None
    """How it follows from others; None: it is recorded."""

    def __call__(self, result: Measurement) -> float | None:
        """The figure of a result; None where it was not measured."""
        if self.derived is None:
            return result.figure(self.name)
        return self.derived(result) if isinstance(result, CellResult) else None

    def added(self, result: Measurement) -> float | None:
        """The figure without the runtime memory; None where either was not measured."""
        value, runtime = self(result), result.figure(self.runtime) if self.runtime else 0
        return None if value is None or runtime is None else value - runtime

    def text(self, value: float) -> str:
        """The value with its unit."""
        return _TEXTS[self.unit](value)


def _queries_per_s(result: CellResult) -> float | None:
    """Queries trained on in a second, their documents with them."""
    if not result.queries_seen or not result.wall_time_s:
        return None
    return result.queries_seen / result.wall_time_s


peak_rss_bytes = Figure(
    name="peak_rss_bytes",
    heading="peak RSS",
    comparable="same machine",
    runtime="baseline_rss_bytes",
    column="always",
    probe=Probe(name="RSS", source="the kernel's mark", calibration_limit=0.01),
)
wall_time_s = Figure(name="wall_time_s", heading="time", unit="seconds", column="always")
step_time_s = Figure(name="step_time_s", heading="step time", unit="seconds")
mrr_at_10 = Figure(
    name="mrr@10",
    heading="MRR@10",
    unit="none",
    larger_is_worse=False,
    comparable="same corpus",
    over_runs=statistics.median,
)
queries_per_s = Figure(
    name="queries_per_s",
    heading="queries/s",
    unit="per second",
    larger_is_worse=False,
    column="always",
    derived=_queries_per_s,
)
added_bytes = Figure(name="added_rss_bytes", heading="added memory", column="always", derived=peak_rss_bytes.added)
FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        figure.name: figure
        for figure in (
            wall_time_s,
            queries_per_s,
            step_time_s,
            peak_rss_bytes,
            added_bytes,
            Figure(
                name="sampled_peak_rss_bytes",
                heading="sampled",
                runtime="baseline_rss_bytes",
                probe=Probe(name="sampled", source="resident memory every 10 ms", calibration_limit=0.02),
            ),
            Figure(
                name="pinned_peak_rss_bytes",
                heading="pinned",
                comparable="same machine",
                memory_pass="pinned",
                runtime="pinned_baseline_rss_bytes",
                column="known",
                probe=Probe(
                    name="pinned",
                    source="the kernel's mark, allocator pinned",
                    calibration_limit=0.01,
                    spread_limit=0.01,
                    spread_floor_bytes=2 * 2**20,
                ),
            ),
            Figure(
                name="planned_peak_rss_bytes",
                heading="planned",
                memory_pass="plan",
                runtime="planned_baseline_rss_bytes",
                column="known",
            ),
            Figure(
                name="memray_peak_bytes",
                heading="memray",
                comparable="same interpreter",
                memory_pass="heap",
                column="known",
                probe=Probe(name="memray", source="memray", calibration_limit=0.001, spread_limit=0.001),
            ),
            Figure(
                name="live_peak_bytes",
                heading="live",
                comparable="anywhere",
                over_runs=max,
                memory_pass="live",
                column="known",
                probe=Probe(
                    name="live tensors", source="torch's operators", calibration_limit=0.001, spread_limit=0.001
                ),
            ),
            Figure(
                name="planned_live_peak_bytes",
                heading="planned live",
                comparable="anywhere",
                over_runs=max,
                memory_pass="plan",
            ),
            Figure(name="device_peak_allocated_bytes", heading="allocated", comparable="same machine", column="known"),
            Figure(name="device_peak_reserved_bytes", heading="reserved", comparable="same machine", column="known"),
            Figure(
                name="final_loss",
                heading="final loss",
                unit="none",
                comparable="same corpus",
                over_runs=statistics.median,
                column="always",
            ),
            Figure(name="validation_loss", heading="validation loss", unit="none", column="always"),
            mrr_at_10,
        )
    }
)
RECORDED: Sequence[Figure] = [figure for figure in FIGURES.values() if figure.derived is None]
GATED: Mapping[str, Figure] = {name: figure for name, figure in FIGURES.items() if figure.comparable}
PROBES: Sequence[tuple[Figure, Probe]] = [(figure, figure.probe) for figure in FIGURES.values() if figure.probe]
