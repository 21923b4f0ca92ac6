"""The head page: time as a multiple of one matrix product, and extra memory, of the streaming and the eager head."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from splade_bench.report.formatting import median_and_range, mib, number
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Page, Table, Text
from splade_bench.report.provenance import measured_on
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.head import HeadResult
from splade_bench.units import as_mib

PAGE_NAME = "HEAD"
_INTRODUCTION = """\
# The head alone

`splade-bench report` writes this page from recorded results; do not edit it. Each row is a forward and a backward pass
of the head over hidden states of full length, with gradients for hidden states, weight and bias, in a fresh process.
*Time* is a multiple of the time of one matrix product, vocabulary times hidden states, which no head can do without.
The same process measures both in turn, the product into an output that already exists. Times are median and range over
rounds. *Extra* is the peak RSS minus the memory before: inputs, weight, bias and the gradients of the latter two. The
*eager* head is the definition as the papers write it.
"""
# Multiples of the product at 1 % active entries, by hidden size; and the extra memory at 768.
LIMIT_AT_1_PERCENT = {768: 1.3, 384: 1.5}
LIMIT_EXTRA_MIB = 64
# How many times faster than eager, by the share of active entries in percent.
LEAST_SPEED_UP = {1: 4.0, 10: 3.0, 100: 1.6}


def multiples(result: HeadResult) -> list[float]:
    """Each time of the head divided by the median time of the product."""
    gemm_s = statistics.median(result.gemm_times_s)
    return [time_s / gemm_s for time_s in result.times_s]


def head_page(results: Sequence[HeadResult]) -> Page:
    """Times and memory of each head beside their limits."""
    results = sorted(results, key=lambda result: result.started_at or "")
    comparable = newest_comparable(results, key=_inputs, run=lambda result: result)
    by_inputs = {(result.head, *_inputs(result)): result for result in comparable}  # the newest of each
    newest = [*by_inputs.values()]
    noise = noise_columns(newest, lambda result: [result])
    rows = [
        [*_row(result, by_inputs.get(("eager", *_inputs(result)))), *(text(result) for _, text in noise)]
        for result in newest
    ]
    headings = [
        *("H", "active", "head", "time ÷ product", "time limit", "speed-up over eager", "speed-up limit"),
        *("extra, MiB", "extra limit, MiB"),
        *(heading for heading, _ in noise),
    ]
    return Page(
        PAGE_NAME,
        [Text(_INTRODUCTION), *measured_on(newest), Table(name="head", headings=headings, rows=rows)],
    )


def _row(result: HeadResult, eager: HeadResult | None) -> list[str]:
    hidden_size, percent = _inputs(result)
    time = statistics.median(multiples(result))
    row = [str(hidden_size), f"{percent} %", result.head, median_and_range(multiples(result), ".2f")]
    if eager is None or result.head == "eager":  # limits are relative to the eager head
        return [*row, "", number(None), "", mib(result.extra_bytes), ""]
    speed_up = statistics.median(multiples(eager)) / time
    return [
        *row,
        _verdict(time, LIMIT_AT_1_PERCENT.get(hidden_size) if percent == 1 else None),
        number(speed_up, ".1f"),
        _verdict(speed_up, LEAST_SPEED_UP.get(percent), at_least=True),
        mib(result.extra_bytes),
        _verdict(as_mib(result.extra_bytes), LIMIT_EXTRA_MIB if hidden_size == 768 else None),
    ]


def _inputs(result: HeadResult) -> tuple[int, int]:
    return result.hidden_size, round(100 * result.active_share)


def _verdict(value: float, limit: float | None, *, at_least: bool = False) -> str:
    if limit is None:
        return ""
    met = value >= limit if at_least else value <= limit
    return f"{'≥' if at_least else '≤'} {limit:g} {'met' if met else 'MISSED'}"
