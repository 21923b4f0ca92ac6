"""The page about the planner: what it predicted for each configuration, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from splade_bench.report.drawing import svg_of
from splade_bench.report.page import Block, Page, Picture, Table, Text, bullets
from splade_bench.report.plots import plot_planned_against_measured
from splade_bench.report.tables import above, above_baseline_bytes, conditions, mib, newest_alike, problems
from splade_bench.results.records import CellResult

PAGE_NAME = "PLANNER"
# How near a plan has to be: live bytes of every configuration, resident memory of most, and none far too low.
LIVE_LIMIT = 0.005
RSS_LIMIT = 0.03
RSS_SHARE = 0.9
RSS_BELOW_LIMIT = 0.06
_INTRODUCTION = """\
# The planner

Written by `splade-bench report` from recorded results; do not edit. Each row is a configuration: what `splade-bench
plan` predicts for it and what was measured, each in a process of its own. *Live* are the bytes of all tensors at their
peak. *RSS* is resident memory above the runtime that was there before: predicted from the live tensors, a model of the
C allocator and the workspaces of libraries; measured as the kernel's high-water mark, the median where there are
several runs. *error* is predicted against measured.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A configuration with both figures."""

    cell_id: str
    live_bytes: int
    planned_live_bytes: int
    added_bytes: float
    """Measured above the baseline, the median over its runs."""
    planned_added_bytes: float
    runs: int

    @property
    def live_error(self) -> float:
        """Of the live bytes, relative."""
        return self.planned_live_bytes / self.live_bytes - 1

    @property
    def rss_error(self) -> float:
        """Of resident memory above the baseline, relative."""
        return self.planned_added_bytes / self.added_bytes - 1


def planned_cells(results: Sequence[CellResult]) -> list[PlannedCell]:
    """The configurations that were planned and ran to their end, in the order in which they come."""
    made = []
    for cell_id in dict.fromkeys(result.cell_id for result in results):
        runs = [result for result in results if result.cell_id == cell_id and result.status == "ok"]
        added = [value for run in runs if (value := above_baseline_bytes(run)) is not None]
        planned = [
            value
            for run in runs
            if (value := above(run.planned_peak_rss_bytes, run.planned_baseline_rss_bytes)) is not None
        ]
        both = [run for run in runs if run.live_peak_bytes is not None and run.planned_live_peak_bytes is not None]
        if not (added and planned and both):
            continue
        assert both[0].live_peak_bytes is not None
        assert both[0].planned_live_peak_bytes is not None
        made.append(
            PlannedCell(
                cell_id=cell_id,
                live_bytes=both[0].live_peak_bytes,
                planned_live_bytes=both[0].planned_live_peak_bytes,
                added_bytes=statistics.median(added),
                planned_added_bytes=statistics.median(planned),
                runs=len(runs),
            )
        )
    return made


def planner_page(results: Sequence[CellResult]) -> Page:
    """Each configuration's plan beside its measurement, and how many are near enough."""
    results = newest_alike(results, key=lambda result: result.cell_id, run=lambda result: result)
    cells = planned_cells(results)
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions(results)]
    if cells:
        pairs = [(cell.planned_added_bytes, cell.added_bytes) for cell in cells]
        blocks += [
            *bullets(_verdicts(cells)),
            _table(cells),
            Picture(
                name="planned-against-measured",
                caption="planned against measured memory",
                svg=svg_of(plot_planned_against_measured, pairs),
            ),
        ]
    missing = problems(results, lambda result: result.cell_id)
    return Page(PAGE_NAME, [*blocks, *bullets(missing, heading="Not measured to the end:")])


def _verdicts(cells: Sequence[PlannedCell]) -> list[str]:
    exact = sum(abs(cell.live_error) <= LIVE_LIMIT for cell in cells)
    near = sum(abs(cell.rss_error) <= RSS_LIMIT for cell in cells)
    lowest = min(cell.rss_error for cell in cells)
    return [
        f"live bytes within {LIVE_LIMIT:.1%}: {exact} of {len(cells)} (wanted: all)",
        f"resident memory within {RSS_LIMIT:.0%}: {near} of {len(cells)} (wanted: {RSS_SHARE:.0%} of them)",
        f"lowest prediction: {lowest:+.1%} (wanted: no lower than {-RSS_BELOW_LIMIT:.0%})",
    ]


def _table(cells: Sequence[PlannedCell]) -> Table:
    rows = [
        [
            cell.cell_id,
            mib(cell.planned_live_bytes),
            mib(cell.live_bytes),
            f"{cell.live_error:+.2%}",
            mib(cell.planned_added_bytes),
            mib(cell.added_bytes),
            f"{cell.rss_error:+.1%}",
            str(cell.runs),
        ]
        for cell in cells
    ]
    headings = [
        *("configuration", "planned live, MiB", "live, MiB", "error"),
        *("planned RSS, MiB", "RSS, MiB", "error", "runs"),
    ]
    return Table(name="plans", headings=headings, rows=rows)
