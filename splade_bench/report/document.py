"""The report page: what was run, what it cost, how the modes compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from splade_bench.cell import WORKLOADS
from splade_bench.errors import DataError
from splade_bench.report import ablation, head, instruments, peers, planner
from splade_bench.report.plots import plot_memory_against_time, plot_planned_against_measured
from splade_bench.report.tables import (
    REFERENCE_MODE,
    ModeComparison,
    cell_table,
    compare_modes,
    comparison_table,
    conditions,
    escape,
    median_and_range,
)
from splade_bench.results import CellResult, HeadResult, Measurement, Result

REPORT_NAME = "TRADEOFFS.md"
_INTRODUCTION = """\
# Trade-offs: memory, time and quality

Written by `splade-bench report` from recorded results; do not edit. Each row is one training run in a process of its
own. *Peak RSS* is the kernel's high-water mark of the whole process, the Python runtime included, from before the model
exists to the last optimizer step; *above baseline* leaves the runtime out. *Time* is the training loop alone. *memray*
is the heap above the loaded model for the widest batch, taken in a second process. *Validation loss* is on fixed
held-out batches of 32, so it may be compared across batch sizes; *final loss* may not. MRR@10 ranks held-out queries
against the whole corpus, before and after training.
"""
_CAVEATS = """\
## Read with care

- Gradient accumulation never merges in-batch negatives: batch 2 × accumulation 4 is not batch 8 for an in-batch loss.
- RSS is what a user of that mode gets, its allocator setting included (`mmap_threshold_bytes`); it varies a little
  between runs.
- Differences in MRR@10 of a hundredth or so are within what another seed does.
"""


def write_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the pages that ``results`` have rows for into ``folder``, and their plots; the pages' paths.

    Raises:
        DataError: there is nothing to report, or the results were taken on different corpora.
    """
    if not results:
        raise DataError("no results to report; run: pytest benchmarks --device cpu")
    cells = [result for result in results if isinstance(result, CellResult)]
    for workload in dict.fromkeys(cell.workload for cell in cells):
        _require_one_corpus(workload, [cell for cell in cells if cell.workload == workload])
    folder.mkdir(parents=True, exist_ok=True)
    pages: Mapping[str, Callable[[Sequence[CellResult]], str]] = {
        peers.PAGE_NAME: peers.peers_page,
        ablation.PAGE_NAME: ablation.ablation_page,
        planner.PAGE_NAME: partial(_planner_page, folder=folder),
        REPORT_NAME: partial(_tradeoffs_page, folder=folder),
    }
    written = {
        name: pages[name]([cell for cell in cells if _page_of(cell) == name])
        for name in dict.fromkeys(map(_page_of, cells))
        if name in pages
    }
    measured = [result for result in results if isinstance(result, Measurement) and instruments.is_shown(result)]
    if measured:
        written[instruments.PAGE_NAME] = instruments.instruments_page(measured)
    heads = [result for result in results if isinstance(result, HeadResult)]
    if heads:
        written[head.PAGE_NAME] = head.head_page(heads)
    if not written:
        raise DataError("no results that a page is about; run: pytest benchmarks --device cpu")
    for name, page in written.items():
        (folder / name).write_text(page, encoding="utf-8")
    return [folder / name for name in written]


def _page_of(result: CellResult) -> str:
    if result.workload in ablation.WORKLOADS_SHOWN:
        return ablation.PAGE_NAME
    if result.workload == instruments.WORKLOAD_SHOWN:
        return instruments.PAGE_NAME
    if planner.is_shown(result):
        return planner.PAGE_NAME
    workload = WORKLOADS.get(result.workload)
    return peers.PAGE_NAME if workload and workload.compares_trainers else REPORT_NAME


def _planner_page(results: Sequence[CellResult], folder: Path) -> str:
    page = planner.planner_page(results)
    cells = planner.planned_cells(results)
    if not cells:
        return page
    plot = Path("plots") / "planned-against-measured.svg"
    plot_planned_against_measured([(cell.planned_added_bytes, cell.added_bytes) for cell in cells], folder / plot)
    return f"{page}\n![planned against measured]({plot.as_posix()})\n"


def _tradeoffs_page(results: Sequence[CellResult], folder: Path) -> str:
    sections = [_INTRODUCTION, conditions(results)]
    for workload in dict.fromkeys(result.workload for result in results):
        chosen = [result for result in results if result.workload == workload]
        sections.append(_workload_section(workload, chosen, folder))
    return "\n".join([*sections, _CAVEATS])


def _workload_section(workload: str, results: Sequence[CellResult], folder: Path) -> str:
    comparisons = compare_modes(results)
    plot = Path("plots") / f"memory-against-time-{workload}.svg"
    plot_memory_against_time(results, folder / plot)
    parts = [f"## Workload `{workload}`", cell_table(results)]
    problems = [
        f"- {escape(result.cell_id)}: {result.status}: {escape(result.error)}" for result in results if result.error
    ]
    if problems:
        parts.append("\n".join(["Not measured to the end:", "", *problems]))
    if any(comparison.memory_mode != REFERENCE_MODE for comparison in comparisons):
        parts += ["### The modes compared", _verdicts(comparisons), comparison_table(comparisons)]
    parts.append(f"![memory against time]({plot.as_posix()})")
    return "\n\n".join(parts) + "\n"


def _verdicts(comparisons: Sequence[ModeComparison]) -> str:
    lines = []
    for comparison in comparisons:
        if comparison.memory_mode == REFERENCE_MODE:
            continue
        lines.append(
            f"- **{escape(comparison.memory_mode)}** takes "
            f"{median_and_range(comparison.above_baseline_ratios, '.2f')} times the memory above baseline and "
            f"{median_and_range(comparison.time_ratios, '.2f')} times the time of `{REFERENCE_MODE}`, with "
            f"{median_and_range(comparison.mrr_differences, '+.3f')} MRR@10: "
            f"median and range of {comparison.pairs} matched pairs."
        )
    return "\n".join(lines)


def _require_one_corpus(workload: str, results: Sequence[CellResult]) -> None:
    corpora = {result.corpus_sha256 for result in results if result.corpus_sha256}
    if len(corpora) > 1:
        raise DataError(
            f"workload {workload}: the results come from {len(corpora)} different corpora (corpus_sha256), which must "
            "not be compared; pass files of one corpus to --results"
        )
