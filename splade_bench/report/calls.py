"""The page of functions that a project's tests measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from splade_bench.report.page import Page, Table, Text, bullets
from splade_bench.report.tables import above, conditions, median_and_range, newest_alike, problems, statuses
from splade_bench.results.records import CallResult
from splade_bench.results.reproduce import reproduce
from splade_bench.units import as_mib

PAGE_NAME = "CALLS"
_INTRODUCTION = """\
# Measured calls

Written by `splade-bench report` from recorded results; do not edit. Each row is a function that a test measured, called
in a fresh process; where there are several runs, their median and range. *Peak RSS* is the kernel's high-water mark of
that process, *above baseline* is without what was there before the call; *memray*, *live* tensors and *pinned* were
taken in processes of their own.
"""
_BYTES: Sequence[tuple[str, Callable[[CallResult], int | None]]] = (
    ("peak RSS, MiB", lambda call: call.peak_rss_bytes),
    ("above baseline, MiB", lambda call: above(call.peak_rss_bytes, call.baseline_rss_bytes)),
    ("memray, MiB", lambda call: call.memray_peak_bytes),
    ("live, MiB", lambda call: call.live_peak_bytes),
    ("pinned above baseline, MiB", lambda call: above(call.pinned_peak_rss_bytes, call.pinned_baseline_rss_bytes)),
)


def calls_page(results: Sequence[CallResult]) -> Page:
    """A row for each call, the largest first; then what did not end well."""
    results = newest_alike(results, key=lambda result: result.name, run=lambda result: result)
    by_name: dict[str, list[CallResult]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    largest_first = sorted(by_name.values(), key=lambda runs: -max(run.peak_rss_bytes or 0 for run in runs))
    table = Table(
        name="calls",
        headings=["call", "runs", "time, s", *(heading for heading, _ in _BYTES)],
        rows=[_row(runs) for runs in largest_first],
        commands=[reproduce(runs[0]) for runs in largest_first],
    )
    failed = problems(results, lambda result: result.name)
    blocks = [Text(_INTRODUCTION), *conditions(results), table, *bullets(failed, heading="Not measured to the end:")]
    return Page(PAGE_NAME, blocks)


def _row(runs: Sequence[CallResult]) -> list[str]:
    ok = [run for run in runs if run.status == "ok"]
    times_s = [run.wall_time_s for run in ok if run.wall_time_s is not None]
    sizes = [[as_mib(value) for run in ok if (value := read(run)) is not None] for _, read in _BYTES]
    return [
        runs[0].name,
        statuses(runs),
        median_and_range(times_s, ".2f"),
        *(median_and_range(of_figure, f".{_digits(of_figure)}f") for of_figure in sizes),
    ]


def _digits(sizes_mib: Sequence[float]) -> int:
    """Small calls are told apart by tenths of a MiB."""
    return 0 if sizes_mib and statistics.median(sizes_mib) >= 100 else 1
