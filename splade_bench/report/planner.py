"""The page about the planner: what it predicted for each configuration, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splade_bench.report.drawing import picture
from splade_bench.report.formatting import mib, number
from splade_bench.report.page import Block, Page, Text, bullets, table_of
from splade_bench.report.provenance import failures, measured_on
from splade_bench.report.readers import group_by, median_of, succeeded
from splade_bench.report.sweep_plots import plot_planned_against_measured
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import FIGURES, Reader, plannable_bytes
from splade_bench.results.records import CellResult

PAGE_NAME = "PLANNER"
# Largest errors of a plan: in live bytes for all configurations, in memory for most, and too low for none.
LIVE_LIMIT = 0.005
MEMORY_LIMIT = 0.03
MEMORY_SHARE = 0.9
MEMORY_BELOW_LIMIT = 0.06
_INTRODUCTION = """\
# The planner

`splade-bench report` writes this page from recorded results; do not edit it. Each row is a configuration: the
prediction of `splade-bench plan` and the measurement, each in a process of its own. *Live* is the peak of the bytes in
all tensors. *Memory* is resident memory without the runtime memory on a CPU, and what the allocator reserves on an
accelerator. The plan computes it from live tensors, a model of the allocator and the workspaces of libraries. The
measurement is the kernel's high-water mark, or the allocator's own; the median where there are several runs. The
*errors* are of the plan relative to the measurement.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A configuration with plan and measurement."""

    cell_id: str
    runs: int
    live_bytes: float | None
    """The median over runs, as the others; None if no memory pass counted it."""
    planned_live_bytes: float
    added_bytes: float
    """Measured memory without the runtime memory: reserved memory on an accelerator, else resident memory."""
    planned_added_bytes: float

    @property
    def live_error(self) -> float | None:
        """Error of the planned live bytes, relative."""
        return self.planned_live_bytes / self.live_bytes - 1 if self.live_bytes else None

    @property
    def memory_error(self) -> float:
        """Error of the planned memory without the runtime memory, relative."""
        return self.planned_added_bytes / self.added_bytes - 1


_FIGURES: Mapping[str, Reader] = {
    "live_bytes": FIGURES["live_peak_bytes"],
    "planned_live_bytes": FIGURES["planned_live_peak_bytes"],
    "added_bytes": plannable_bytes,
    "planned_added_bytes": FIGURES["planned_peak_rss_bytes"].added,
}


def planned_cells(results: Sequence[CellResult]) -> list[PlannedCell]:
    """The configurations that were planned and measured, in the order of the results."""
    cells = []
    for cell_id, runs in group_by(succeeded(results), lambda result: result.cell_id).items():
        medians = {name: median_of(runs, reader) for name, reader in _FIGURES.items()}
        live_bytes = medians.pop("live_bytes")
        known = {name: value for name, value in medians.items() if value is not None}
        if known.keys() == medians.keys():
            cells.append(PlannedCell(cell_id=cell_id, runs=len(runs), live_bytes=live_bytes, **known))
    return cells


def planner_page(results: Sequence[CellResult]) -> Page:
    """Each configuration's plan beside its measurement, and how many plans are within the limits."""
    results = newest_comparable(results, key=lambda result: result.cell_id, run=lambda result: result)
    cells = planned_cells(results)
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results)]
    if cells:
        pairs = [(cell.planned_added_bytes, cell.added_bytes) for cell in cells]
        table = table_of(
            "plans",
            cells,
            [
                ("configuration", lambda cell: cell.cell_id),
                ("planned live, MiB", lambda cell: mib(cell.planned_live_bytes)),
                ("live, MiB", lambda cell: mib(cell.live_bytes)),
                ("live error", lambda cell: number(cell.live_error, "+.2%")),
                ("planned memory, MiB", lambda cell: mib(cell.planned_added_bytes)),
                ("memory, MiB", lambda cell: mib(cell.added_bytes)),
                ("memory error", lambda cell: f"{cell.memory_error:+.1%}"),
                ("runs", lambda cell: str(cell.runs)),
            ],
        )
        blocks += [
            *bullets(_verdicts(cells)),
            table,
            *picture(
                "planned-against-measured", "planned against measured memory", plot_planned_against_measured, pairs
            ),
        ]
    return Page(PAGE_NAME, [*blocks, *failures(results)])


def _verdicts(cells: Sequence[PlannedCell]) -> list[str]:
    live_errors = [cell.live_error for cell in cells if cell.live_error is not None]
    exact = sum(abs(error) <= LIVE_LIMIT for error in live_errors)
    near = sum(abs(cell.memory_error) <= MEMORY_LIMIT for cell in cells)
    lowest = min(cell.memory_error for cell in cells)
    return [
        f"live bytes within {LIVE_LIMIT:.1%}: {exact} of {len(live_errors)} (required: all)",
        f"memory within {MEMORY_LIMIT:.0%}: {near} of {len(cells)} (required: {MEMORY_SHARE:.0%} of them)",
        f"lowest prediction: {lowest:+.1%} (required: at least {-MEMORY_BELOW_LIMIT:.0%})",
    ]
