"""The page of functions that a project's tests measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from splade_bench.report.formatting import median_and_range
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Page, Text, table_of
from splade_bench.report.provenance import counts, failures, measured_on
from splade_bench.report.readers import group_by, succeeded, values_of
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import FIGURES, peak_rss_bytes, wall_time_s
from splade_bench.results.records import CallResult
from splade_bench.results.reproduce import reproduce
from splade_bench.units import as_mib

PAGE_NAME = "CALLS"
_INTRODUCTION = """\
# Measured calls

`splade-bench report` writes this page from recorded results; do not edit it. Each row is a function that a test
measured in a fresh process, with median and range where there are several runs. *Peak RSS* is the kernel's high-water
mark of the process. *Added memory* is the peak minus the memory before the call. *memray*, *live* tensors and *pinned*
were measured in separate processes.
"""
_WHOLE_MIB_FROM = 100


def calls_page(results: Sequence[CallResult]) -> Page:
    """A row per function, the largest first, then the failed runs."""
    results = newest_comparable(results, key=lambda result: result.name, run=lambda result: result)
    by_name = group_by(results, lambda result: result.name).values()
    largest_first = sorted(by_name, key=lambda runs: -max(run.peak_rss_bytes or 0 for run in runs))
    table = table_of(
        "calls",
        largest_first,
        [
            ("call", lambda runs: runs[0].name),
            ("runs", lambda runs: counts(run.status for run in runs)),
            ("time, s", lambda runs: median_and_range(values_of(succeeded(runs), wall_time_s), ".2f")),
            ("peak RSS, MiB", lambda runs: _sizes(runs, peak_rss_bytes)),
            ("added memory, MiB", lambda runs: _sizes(runs, peak_rss_bytes.added)),
            ("memray, MiB", lambda runs: _sizes(runs, FIGURES["memray_peak_bytes"])),
            ("live, MiB", lambda runs: _sizes(runs, FIGURES["live_peak_bytes"])),
            ("pinned, added memory, MiB", lambda runs: _sizes(runs, FIGURES["pinned_peak_rss_bytes"].added)),
            *noise_columns(largest_first, lambda runs: runs),
        ],
        commands=[reproduce(runs[0]) for runs in largest_first],
    )
    return Page(PAGE_NAME, [Text(_INTRODUCTION), *measured_on(results), table, *failures(results)])


def _sizes(runs: Sequence[CallResult], read: Callable[[CallResult], float | None]) -> str:
    """Median and range in MiB, with tenths for small calls."""
    sizes_mib = [as_mib(value) for value in values_of(succeeded(runs), read)]
    is_large = sizes_mib and statistics.median(sizes_mib) >= _WHOLE_MIB_FROM
    return median_and_range(sizes_mib, ".0f" if is_large else ".1f")
