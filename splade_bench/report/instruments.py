"""The page about the instruments: errors against known amounts, spread over equal cells, and memory limits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from splade_bench.report.cells import GridPoint
from splade_bench.report.formatting import MISSING, mib
from splade_bench.report.page import Block, Page, Table, Text, table_of
from splade_bench.report.provenance import counts, measured_on
from splade_bench.report.readers import group_by, recorded, succeeded, values_of
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import PROBES, Reader, peak_rss_bytes
from splade_bench.results.records import CALIBRATION, CallResult, CellResult, Measurement
from splade_bench.units import as_mib, format_bytes

PAGE_NAME = "INSTRUMENTS"
_REPEATED, _LIMITED = "repeatability", "memory-limit"  # workloads
_INTRODUCTION = """\
# The instruments

`splade-bench report` writes this page from recorded results; do not edit it. Every row is one fresh process or several.
Each memory pass (memray, live tensors, pinned allocator) has a process of its own beside the timed one.
"""
_CALIBRATION = """\
## Known amounts

`touch_block` writes to each page of a block, `fill_tensor` creates a tensor. Both free the memory before it is read.
*RSS* is the kernel's high-water mark. *Sampled* comes from a thread that reads resident memory every 10 ms. Both are
added memory. Errors are relative to the known amount. The sampler can miss a tensor that is freed at once, so the block
is held for several samples.
"""
_REPEATABILITY = """\
## Repeatability

The same cell in many processes. Figures of resident memory are added memory. *Spread* is the largest value minus the
smallest. *Pinned* is the figure for a gate. *RSS* is the memory that a user's process takes.
"""
_LIMIT = """\
## Memory limits

`--memory-limit` limits resident memory, including the runtime memory.
"""
_FEWEST_PROCESSES = 2


def instruments_page(results: Sequence[Measurement]) -> Page:
    """Calibration, repeatability and limits: the sections that have results."""
    calls = [result for result in results if isinstance(result, CallResult)]
    cells = [result for result in results if isinstance(result, CellResult)]
    cells = newest_comparable(cells, key=lambda cell: cell.cell_id, run=lambda cell: cell)
    by_workload = group_by(cells, lambda cell: cell.workload)
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on([*calls, *cells])]
    for heading, table in (
        (_CALIBRATION, _calibration_table(calls)),
        (_REPEATABILITY, _repeatability_table(by_workload.get(_REPEATED, []))),
        (_LIMIT, _limit_table(by_workload.get(_LIMITED, []))),
    ):
        if table.rows:
            blocks += [Text(heading), table]
    return Page(PAGE_NAME, blocks)


def _calibration_table(calls: Sequence[CallResult]) -> Table:
    rows = []
    for call in calls:
        known_bytes = call.value if isinstance(call.value, int) else None
        row = [call.name.removeprefix(CALIBRATION).strip().split(" ")[0], mib(known_bytes), call.status]
        for figure, _ in PROBES:
            read_bytes = figure.added(call)
            row.append(MISSING if read_bytes is None or not known_bytes else f"{read_bytes / known_bytes - 1:+.3%}")
        rows.append(row)
    limits = [f"{probe.name} (± {probe.calibration_limit:.1%})" for _, probe in PROBES]
    return Table(name="calibration", headings=["call", "known, MiB", "status", *limits], rows=rows)


def _repeatability_table(cells: Sequence[CellResult]) -> Table:
    rows = []
    for cell_id, runs in group_by(cells, lambda cell: cell.cell_id).items():
        for figure, probe in PROBES:
            values = values_of(succeeded(runs), figure.added)
            if len(values) < _FEWEST_PROCESSES:
                continue
            median = statistics.median(values)
            sizes = [f"{as_mib(value):.1f}" for value in (median, min(values), max(values))]
            allowed, verdict = MISSING, "reported"
            if probe.spread_limit is not None:
                allowed = f"{probe.spread_limit:.1%}"
                verdict = "holds" if probe.spread_holds(values) else "DOES NOT HOLD"
            spread = f"{(max(values) - min(values)) / median:.2%}"
            rows.append([cell_id, probe.name, str(len(values)), *sizes, spread, allowed, verdict])
    headings = ["cell", "figure", "processes", "median, MiB", "min", "max", "spread", "allowed", "verdict"]
    return Table(name="repeatability", headings=headings, rows=rows)


def _limit_table(cells: Sequence[CellResult]) -> Table:
    points = [GridPoint(runs) for runs in group_by(cells, lambda cell: cell.cell_id).values()]
    return table_of(
        "limits",
        points,
        [
            ("cell", lambda point: point.first.cell_id),
            ("limit", lambda point: format_bytes(limit) if (limit := point.first.memory_limit_bytes) else "none"),
            ("runs that ended", lambda point: counts(sorted(run.status for run in point.runs))),
            (
                "in phase",
                lambda point: counts(sorted(run.phase for run in point.runs if run.phase and run.status != "ok")),
            ),
            ("failed allocation, MiB", lambda point: _range(point, recorded("failed_allocation_bytes"))),
            ("peak RSS, MiB", lambda point: _range(point, peak_rss_bytes)),
        ],
    )


def _range(point: GridPoint, reader: Reader) -> str:
    sizes_bytes = values_of(point.runs, reader)
    return f"{mib(min(sizes_bytes))} to {mib(max(sizes_bytes))}" if sizes_bytes else MISSING
