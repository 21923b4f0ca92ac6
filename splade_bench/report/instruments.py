"""The page about the instruments: how each probe reads a known amount, how figures repeat, what a limit does."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from splade_bench.report.page import Block, Page, Table, Text
from splade_bench.report.probes import PROBES
from splade_bench.report.tables import MISSING, conditions, mib, newest_alike, number
from splade_bench.results.records import CALIBRATION, CallResult, CellResult, Measurement
from splade_bench.units import as_mib, format_bytes

PAGE_NAME = "INSTRUMENTS"
_REPEATED, _LIMITED = "repeatability", "memory-limit"  # workloads
_INTRODUCTION = """\
# The instruments

Written by `splade-bench report` from recorded results; do not edit. Every row is a fresh process, or several; each
memory pass (memray, live tensors, pinned allocator) is a process of its own beside the timed one.
"""
_CALIBRATION = """\
## A known amount, read back

`touch_block` writes to each page of a block, `fill_tensor` makes a tensor, and both free it before anything is read.
*RSS* is the kernel's mark, *sampled* a thread's that looks every 10 ms, both above the baseline. Each error is relative
to the amount. A tensor that is made and freed at once may pass between two samples; the block is held for them.
"""
_REPEATABILITY = """\
## The same cell again and again

Above the baseline or, for live tensors and memray, as counted. *Spread* is the largest less the smallest. *Pinned* is
the figure for a gate; *RSS* is what a user gets.
"""
_LIMIT = """\
## Under a memory limit

`--memory-limit` bounds resident memory, the runtime included.
"""
_FEWEST_PROCESSES = 2


def instruments_page(results: Sequence[Measurement]) -> Page:
    """Known amounts read back, equal cells again and again, cells under a limit: what there are results of."""
    calls = [result for result in results if isinstance(result, CallResult)]
    cells = [result for result in results if isinstance(result, CellResult)]
    cells = newest_alike(cells, key=lambda cell: cell.cell_id, run=lambda cell: cell)
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions([*calls, *cells])]
    limited = [cell for cell in cells if cell.workload == _LIMITED]
    if calls:
        blocks += [Text(_CALIBRATION), _calibration_table(calls)]
    repeated = _repeatability_table([cell for cell in cells if cell.workload == _REPEATED])
    if repeated.rows:
        blocks += [Text(_REPEATABILITY), repeated]
    if limited:
        blocks += [Text(_LIMIT), _limit_table(limited)]
    return Page(PAGE_NAME, blocks)


def _calibration_table(calls: Sequence[CallResult]) -> Table:
    rows = []
    for call in calls:
        known_bytes = call.value if isinstance(call.value, int) else None
        row = [call.name.removeprefix(CALIBRATION).strip().split(" ")[0], mib(known_bytes), call.status]
        for probe in PROBES:
            read_bytes = probe.read_bytes(call)
            row.append(MISSING if read_bytes is None or not known_bytes else f"{read_bytes / known_bytes - 1:+.3%}")
        rows.append(row)
    limits = [f"{probe.name} (± {probe.calibration_limit:.1%})" for probe in PROBES]
    return Table(name="calibration", headings=["call", "known, MiB", "status", *limits], rows=rows)


def _repeatability_table(cells: Sequence[CellResult]) -> Table:
    rows = []
    for cell_id in dict.fromkeys(cell.cell_id for cell in cells):
        runs = [cell for cell in cells if (cell.cell_id, cell.status) == (cell_id, "ok")]
        for probe in PROBES:
            values = [value for run in runs if (value := probe.read_bytes(run)) is not None]
            if len(values) < _FEWEST_PROCESSES:
                continue
            spread_bytes = max(values) - min(values)
            verdict = "reported"
            if probe.spread_limit is not None:
                verdict = "holds" if probe.spread_holds(values) else "DOES NOT HOLD"
            rows.append(
                [
                    cell_id,
                    probe.name,
                    str(len(values)),
                    number(as_mib(statistics.median(values)), ".1f"),
                    number(as_mib(min(values)), ".1f"),
                    number(as_mib(max(values)), ".1f"),
                    f"{spread_bytes / statistics.median(values):.2%}",
                    MISSING if probe.spread_limit is None else f"{probe.spread_limit:.1%}",
                    verdict,
                ]
            )
    headings = ["cell", "figure", "processes", "median, MiB", "min", "max", "spread", "allowed", ""]
    return Table(name="repeatability", headings=headings, rows=rows)


def _limit_table(cells: Sequence[CellResult]) -> Table:
    rows = []
    for cell_id in dict.fromkeys(cell.cell_id for cell in cells):
        runs = [cell for cell in cells if cell.cell_id == cell_id]
        peaks = [run.peak_rss_bytes for run in runs if run.peak_rss_bytes is not None]
        asked = [run.failed_allocation_bytes for run in runs if run.failed_allocation_bytes is not None]
        rows.append(
            [
                cell_id,
                "none" if runs[0].memory_limit_bytes is None else format_bytes(runs[0].memory_limit_bytes),
                _counts([run.status for run in runs]),
                _counts([run.phase for run in runs if run.phase is not None and run.status != "ok"]) or MISSING,
                f"{mib(min(asked))} to {mib(max(asked))}" if asked else MISSING,
                f"{mib(min(peaks))} to {mib(max(peaks))}" if peaks else MISSING,
            ]
        )
    headings = ["cell", "limit", "runs that ended", "in phase", "failed allocation, MiB", "peak RSS, MiB"]
    return Table(name="limits", headings=headings, rows=rows)


def _counts(values: Sequence[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in sorted(Counter(values).items()))
