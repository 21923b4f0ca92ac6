"""The company page: trainers beside busy processes, each against its own quiet time and against SpladeLoss."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from splade_bench.report.bounds import CACHED, MODE, SPLADE_LOSS, contender
from splade_bench.report.cells import GridPoint
from splade_bench.report.formatting import MISSING, median_and_range
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Page, Table, Text, table_of
from splade_bench.report.provenance import counts, failures, measured_on
from splade_bench.report.readers import group_by
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.records import CellResult

PAGE_NAME = "COMPANY"
_INTRODUCTION = """\
# In company: training beside busy processes

`splade-bench report` writes this page from recorded results; do not edit it. Each run is a fresh process that trains on
all cores. A *busy process* is a plain Python loop at the same priority. It starts before the run and ends after it. The
order of the runs alternates from round to round. Model, texts and trainers are those of `mini-256-real` at batch 8 in
[PEERS.md](PEERS.md), without attention dropout. `CachedSpladeLoss` has mini-batches of one text.

A run that does not end in time counts too. Its time until then, divided by its number of optimizer steps, is the least
that a step can have taken: the first step, which is not timed, has only a few tokens.
"""
_LIMITS = "## Limits\n\nA ratio is one of medians. It is *not decided* if a run was ended too early to say."


@dataclass(frozen=True, slots=True)
class Reading:
    """A number, or a bound of it: with the sign ``<`` or ``>``, the true one is smaller or larger than the value."""

    value: float
    sign: Literal["", "<", ">"] = ""

    def over(self, other: Reading) -> Reading | None:
        """The ratio of two times; None if both are only bounds."""
        if self.sign and other.sign:
            return None
        return Reading(self.value / other.value, self.sign or ("<" if other.sign else ""))

    def text(self) -> str:
        """``0.25``, ``less than 0.25`` or ``more than 0.25``."""
        return {"": "", "<": "less than ", ">": "more than "}[self.sign] + f"{self.value:.2f}"

    def verdict(self, limit: float) -> str:
        """Whether it is at most ``limit``, as far as it is known."""
        if self.value <= limit:
            return "not decided" if self.sign == ">" else "met"
        return "not decided" if self.sign == "<" else "MISSED"


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest ratio of this package's time to another one, both beside a number of busy processes."""

    title: str
    trainer: str
    beside: int
    limit: float


_ONE = 1
LIMITS: Sequence[Limit] = (
    Limit("time beside one busy process ÷ its own quiet time", MODE, 0, 2.2),
    Limit("time beside one busy process ÷ SpladeLoss beside one", SPLADE_LOSS, _ONE, 0.25),
    Limit("time beside one busy process ÷ CachedSpladeLoss beside one", CACHED, _ONE, 0.25),
)


def company_page(results: Sequence[CellResult]) -> Page:
    """The limits, then each trainer beside each number of busy processes."""
    results = newest_comparable(results, key=lambda result: result.workload, run=lambda result: result)
    by_key = group_by(results, lambda result: (contender(result), result.busy_processes))
    times = {key: time for key, runs in by_key.items() if (time := median_time(runs))}
    blocks = [Text(_INTRODUCTION), *measured_on(results), Text(_LIMITS), _limits(times)]
    failed = failures(result for result in results if result.status != "timeout")
    return Page(PAGE_NAME, [*blocks, Text("## Trainers"), _trainers(by_key, times), *failed])


def _limits(times: dict[tuple[str, int], Reading]) -> Table:
    def outcome(limit: Limit) -> str:
        measured = _ratio(times, (MODE, _ONE), (limit.trainer, limit.beside))
        return f"{measured.text()} {measured.verdict(limit.limit)}" if measured else "not measured"

    columns = [
        ("figure", lambda limit: limit.title),
        ("limit", lambda limit: f"≤ {limit.limit:.2f}"),
        ("measured", outcome),
    ]
    return table_of("limits", LIMITS, columns)


def _trainers(by_key: dict[tuple[str, int], list[CellResult]], times: dict[tuple[str, int], Reading]) -> Table:
    """This package first; the quiet runs of each trainer first."""

    def ratio(point: GridPoint, trainer: str | None, busy_processes: int | None) -> str:
        name, beside = contender(point.first), point.first.busy_processes
        other = (name if trainer is None else trainer, beside if busy_processes is None else busy_processes)
        found = _ratio(times, (name, beside), other)
        return found.text() if found else MISSING

    points = [GridPoint(by_key[key]) for key in sorted(by_key, key=lambda key: (key[0] != MODE, key))]
    return table_of(
        "trainers",
        points,
        [
            ("trainer", lambda point: contender(point.first)),
            ("busy processes", lambda point: str(point.first.busy_processes)),
            ("runs", lambda point: counts(run.status for run in point.runs)),
            ("s per optimizer step", lambda point: times_text(point.runs)),
            ("÷ own quiet time", lambda point: ratio(point, None, 0)),
            (f"÷ {SPLADE_LOSS} beside as many", lambda point: ratio(point, SPLADE_LOSS, None)),
            *noise_columns(points, lambda point: point.runs),
        ],
    )


def step_time(result: CellResult) -> Reading | None:
    """Seconds per optimizer step; of a run that did not end in time, the least that they can have been."""
    if result.status == "ok" and result.step_time_s:
        return Reading(result.step_time_s)
    if result.status == "timeout" and result.wall_time_s and result.max_steps:
        return Reading(result.wall_time_s / result.max_steps, ">")
    return None


def median_time(runs: Sequence[CellResult]) -> Reading | None:
    """The median; only its least value if a run without a known time could be below it."""
    times = [time for run in runs if (time := step_time(run))]
    if not times:
        return None
    median_s = statistics.median(time.value for time in times)
    # Of an even number of runs the median is a mean of two; a bound above the lower one may be the upper one.
    upper_s = statistics.median_high(time.value for time in times)
    is_least = any(time.sign and time.value <= upper_s for time in times)
    return Reading(median_s, ">" if is_least else "")


def times_text(runs: Sequence[CellResult]) -> str:
    """Median and range; where runs were ended, what is known of them."""
    times = [time for run in runs if (time := step_time(run))]
    median = median_time(runs)
    if median is None or not any(time.sign for time in times):
        return median_and_range([time.value for time in times], ".2f")
    if all(time.sign for time in times):
        return median.text()
    values = [time.value for time in times]
    return f"{median.text()} ({min(values):.2f} to at least {max(values):.2f})"


def _ratio(times: dict[tuple[str, int], Reading], own: tuple[str, int], other: tuple[str, int]) -> Reading | None:
    if own == other:
        return Reading(1.0) if own in times else None
    return times[own].over(times[other]) if own in times and other in times else None
