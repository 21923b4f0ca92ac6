"""The head page: time as a multiple of one bare product and extra memory, of the streaming head and its definition."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from splade_bench.report.page import Page, Table, Text
from splade_bench.report.tables import conditions, median_and_range, mib, newest_alike, number
from splade_bench.results.records import HeadResult
from splade_bench.units import as_mib

PAGE_NAME = "HEAD"
_INTRODUCTION = """\
# The head by itself

Written by `splade-bench report` from recorded results; do not edit. Forward and backward of the head over hidden states
of full length, with gradients for hidden states, weight and bias, each row in a fresh process. *Time* is a multiple of
the one product that no head can do without, vocabulary times hidden states, measured in turn with it in the same
process into an output that is warm and in place: median and range of the rounds. *Extra* is the peak RSS above what was
there before: inputs, weight, bias and the gradients of the latter two. *Eager* is the definition, as the papers write
it.
"""
# Multiples of the product at 1 % active entries, by hidden size; and the extra memory at 768.
LIMIT_AT_1_PERCENT = {768: 1.3, 384: 1.5}
LIMIT_EXTRA_MIB = 64
# How many times faster than eager, by the share of active entries in percent.
LEAST_SPEED_UP = {1: 4.0, 10: 3.0, 100: 1.6}


def multiples(result: HeadResult) -> list[float]:
    """Each time of the head over the median time of the product."""
    gemm_s = statistics.median(result.gemm_times_s)
    return [time_s / gemm_s for time_s in result.times_s]


def head_page(results: Sequence[HeadResult]) -> Page:
    """Each head's times and memory, beside the limits."""
    rows = []
    results = sorted(results, key=lambda result: result.started_at or "")
    alike = newest_alike(results, key=_inputs, run=lambda result: result)
    by_inputs = {(result.head, *_inputs(result)): result for result in alike}  # the newest of each
    for result in by_inputs.values():
        hidden_size, percent = _inputs(result)
        median = statistics.median(multiples(result))
        eager = by_inputs.get(("eager", hidden_size, percent))
        speed_up = None
        if eager and result.head != "eager":
            speed_up = statistics.median(multiples(eager)) / median
        time_limit = LIMIT_AT_1_PERCENT.get(hidden_size) if percent == 1 else None
        extra_limit = LIMIT_EXTRA_MIB if hidden_size == 768 else None
        rows.append(
            [
                str(hidden_size),
                f"{percent} %",
                result.head,
                median_and_range(multiples(result), ".2f"),
                "" if speed_up is None else _verdict(median, time_limit, at_most=True),
                number(speed_up, ".1f"),
                "" if speed_up is None else _verdict(speed_up, LEAST_SPEED_UP.get(percent), at_most=False),
                mib(result.extra_bytes),
                "" if speed_up is None else _verdict(as_mib(result.extra_bytes), extra_limit, at_most=True),
            ]
        )
    headings = ["H", "active", "head", "time ÷ product", "limit", "eager ÷ it", "limit", "extra, MiB", "limit"]
    return Page(
        PAGE_NAME,
        [Text(_INTRODUCTION), *conditions([*by_inputs.values()]), Table(name="head", headings=headings, rows=rows)],
    )


def _inputs(result: HeadResult) -> tuple[int, int]:
    return result.hidden_size, round(100 * result.active_share)


def _verdict(value: float, limit: float | None, *, at_most: bool) -> str:
    if limit is None:
        return ""
    met = value <= limit if at_most else value >= limit
    return f"{'≤' if at_most else '≥'} {limit:g} {'met' if met else 'MISSED'}"
