"""The figures of a measurement, one row each, for the gate, `compare`, the reports, `doctor` and the pytest plugin.

A new figure is a row here, the field of the record that holds it, and the code that takes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Literal

from splade_bench.results.conditions import Level
from splade_bench.results.records import CellResult, Measurement
from splade_bench.units import format_bytes

Unit = Literal["bytes", "seconds", "per second", "none"]
# A figure of the table, or a function that computes one from a result.
Reader = Callable[[CellResult], float | None]
_TEXTS: Mapping[Unit, Callable[[float], str]] = {
    "bytes": format_bytes,
    "seconds": "{:.2f} s".format,
    "per second": "{:.1f}/s".format,
    "none": "{:.4f}".format,
}


@dataclass(frozen=True, slots=True)
class Probe:
    """An instrument that reads memory, and how accurate it must be."""

    name: str
    source: str
    """Where it reads."""
    calibration_limit: float
    """Largest error for a known amount, relative."""
    spread_limit: float | None = None
    """Largest spread over fresh processes, relative to the median; None: reported only."""
    spread_floor_bytes: int = 0
    """A spread that is always allowed."""

    def spread_holds(self, values: Sequence[float]) -> bool:
        """Whether the largest and the smallest value are near enough."""
        assert self.spread_limit is not None
        return max(values) - min(values) <= max(self.spread_limit * statistics.median(values), self.spread_floor_bytes)


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number. Call it with a result to get the number, or None where it was not measured."""

    name: str
    """As in a results file; a retrieval metric by its own name."""
    heading: str
    """In a table, where the unit follows."""
    _: KW_ONLY
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
    """Whether the table of cells has a column of it: always, or if a cell has it."""
    probe: Probe | None = None
    derived: Reader | None = None
    """How it follows from other fields; None: it is recorded."""

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
    if not result.queries_seen or not result.wall_time_s:
        return None
    return result.queries_seen / result.wall_time_s


def peak_bytes(result: CellResult) -> float | None:
    """Peak of the memory that holds the cell's tensors: of live tensors on an accelerator, else the process's RSS."""
    on_device = result.device_peak_allocated_bytes
    return result.peak_rss_bytes if on_device is None else on_device


def plannable_bytes(result: CellResult) -> float | None:
    """What a plan predicts, without the runtime memory: memory reserved on an accelerator, else the process's RSS."""
    on_device = result.device_peak_reserved_bytes
    return peak_rss_bytes.added(result) if on_device is None else on_device


def _added_bytes(result: CellResult) -> float | None:
    """The peak of :func:`peak_bytes` without the runtime memory, which is not on an accelerator."""
    on_device = result.device_peak_allocated_bytes
    return peak_rss_bytes.added(result) if on_device is None else on_device


_RSS = Probe("RSS", "the kernel's mark", 0.01)
_SAMPLED = Probe("sampled", "resident memory every 10 ms", 0.02)
_PINNED = Probe("pinned", "the kernel's mark, allocator pinned", 0.01, spread_limit=0.01, spread_floor_bytes=2 * 2**20)
_MEMRAY = Probe("memray", "memray", 0.001, spread_limit=0.001)
_LIVE = Probe("live tensors", "torch's operators", 0.001, spread_limit=0.001)

peak_rss_bytes = Figure(
    "peak_rss_bytes", "peak RSS", comparable="same machine", runtime="baseline_rss_bytes", column="always", probe=_RSS
)
wall_time_s = Figure("wall_time_s", "time", unit="seconds", column="always")
step_time_s = Figure("step_time_s", "step time", unit="seconds")
added_bytes = Figure("added_rss_bytes", "added memory", column="always", derived=_added_bytes)
queries_per_s = Figure(
    "queries_per_s", "queries/s", unit="per second", larger_is_worse=False, column="always", derived=_queries_per_s
)
mrr_at_10 = Figure(
    "mrr@10", "MRR@10", unit="none", larger_is_worse=False, comparable="same corpus", over_runs=statistics.median
)
_ROWS = (
    wall_time_s,
    queries_per_s,
    step_time_s,
    peak_rss_bytes,
    added_bytes,
    Figure("all_ranks_peak_bytes", "peak of all ranks", comparable="same machine", column="known"),
    Figure("sampled_peak_rss_bytes", "sampled", runtime="baseline_rss_bytes", probe=_SAMPLED),
    Figure(
        "pinned_peak_rss_bytes",
        "pinned",
        comparable="same machine",
        memory_pass="pinned",
        runtime="pinned_baseline_rss_bytes",
        column="known",
        probe=_PINNED,
    ),
    Figure(
        "planned_peak_rss_bytes", "planned", memory_pass="plan", runtime="planned_baseline_rss_bytes", column="known"
    ),
    Figure(
        "memray_peak_bytes", "memray", comparable="same interpreter", memory_pass="heap", column="known", probe=_MEMRAY
    ),
    Figure(
        "live_peak_bytes", "live", comparable="anywhere", over_runs=max, memory_pass="live", column="known", probe=_LIVE
    ),
    Figure("planned_live_peak_bytes", "planned live", comparable="anywhere", over_runs=max, memory_pass="plan"),
    Figure("device_peak_allocated_bytes", "allocated", comparable="same machine", column="known"),
    Figure("device_peak_reserved_bytes", "reserved", comparable="same machine", column="known"),
    Figure(
        "final_loss", "final loss", unit="none", comparable="same corpus", over_runs=statistics.median, column="always"
    ),
    Figure("validation_loss", "validation loss", unit="none", column="always"),
    mrr_at_10,
)
FIGURES: Mapping[str, Figure] = MappingProxyType({figure.name: figure for figure in _ROWS})
RECORDED: Sequence[Figure] = [figure for figure in FIGURES.values() if figure.derived is None]
GATED: Mapping[str, Figure] = {name: figure for name, figure in FIGURES.items() if figure.comparable}
PROBES: Sequence[tuple[Figure, Probe]] = [(figure, figure.probe) for figure in FIGURES.values() if figure.probe]
