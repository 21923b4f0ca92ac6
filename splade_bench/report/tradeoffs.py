"""The trade-off page: memory, time and quality of each cell, a comparison of the modes, and advice on the mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.timeline import Sample
from splade_bench.report import mode_overview
from splade_bench.report.cells import Column, GridPoint, cell_table, grid_points
from splade_bench.report.claims import claims_blocks
from splade_bench.report.drawing import picture
from splade_bench.report.formatting import number
from splade_bench.report.markdown import code
from splade_bench.report.modes import REFERENCE_MODE, compare_modes, comparison_table, modes_of
from splade_bench.report.page import Block, Page, Text, bullets
from splade_bench.report.plots import plot_timelines
from splade_bench.report.provenance import failures, measured_on
from splade_bench.report.readers import by_workload, group_by
from splade_bench.report.sweep_plots import TradePoint, plot_learning, plot_memory_against_time, plot_scaling
from splade_bench.results.conditions import setup_key
from splade_bench.results.figures import added_bytes, wall_time_s
from splade_bench.results.records import CellResult

PAGE_NAME = "TRADEOFFS"
_INTRODUCTION = """\
# Trade-offs: memory, time and quality

`splade-bench report` writes this page from recorded results; do not edit it. Each run is a training in a process of its
own. Each row is a grid point: the median and range of its runs over seeds. *Peak RSS* is the kernel's high-water mark
of the whole process, including the Python runtime, from before the model exists to the last optimizer step. On a CPU,
*peak memory* is peak RSS, and *added memory* is peak RSS minus the runtime memory. On an accelerator, both are the peak
of *allocated* memory there; *reserved* is what its allocator took. *Time* is the training loop alone. *Live* is the
bytes in all tensors and *memray* the heap above the loaded model; processes of their own measure both for the widest
batch. *Validation loss* is on fixed held-out batches of 32, so batch sizes can be compared in it, but not in *final
loss*. MRR@10 ranks held-out queries against the whole corpus, before and after training.
"""
_BY_LENGTH = """\
## Text lengths

In the `length-*` workloads, a model of 2 x 128 with BERT's vocabulary trains on random token ids. Every text has the
length in the workload's name.
"""
# Each with the condition under which it applies.
_CAVEATS: Mapping[str, Callable[[Sequence[CellResult]], bool]] = {
    "Gradient accumulation never merges in-batch negatives: with an in-batch loss, batch 2 × accumulation 4 is not "
    "batch 8.": lambda results: any(result.gradient_accumulation_steps > 1 for result in results),
    "RSS is the memory that a user of the mode needs, with the mode's allocator setting (`mmap_threshold_bytes`). It "
    "varies a little between runs. `pinned_peak_rss_bytes` varies less.": lambda results: any(
        result.peak_rss_bytes is not None and result.pinned_peak_rss_bytes is None for result in results
    ),
    "Another seed changes MRR@10 by about 0.01, so smaller differences mean nothing.": lambda results: any(
        result.metrics for result in results
    ),
    "Some cells ran with one seed only, so their variation between seeds is unknown.": lambda results: any(
        len({run.seed for run in runs}) == 1 for runs in group_by(results, lambda result: result.cell_id).values()
    ),
    "The system swapped out memory of some runs: their times are not reliable, and their peak RSS is too small.": (
        lambda results: any(result.swapped_bytes for result in results)
    ),
    "The rows come from several versions of this package (source trees). Only rows of the same version are compared.": (
        lambda results: len({result.source_tree for result in results}) > 1
    ),
    "Learning rates grow with the square root of the effective batch, so cells differ in it.": lambda results: (
        len({result.batch_size * result.gradient_accumulation_steps for result in results}) > 1
    ),
    "`base` and workloads without a corpus are not ranked: they have no MRR.": lambda results: any(
        result.status == "ok" and not result.metrics for result in results
    ),
}


def tradeoffs_page(results: Sequence[CellResult]) -> Page:
    """Advice, a section per workload, and the article's claims."""
    compare_lengths = {name for name, workload in WORKLOADS.items() if workload.compares_lengths}
    by_length = [result for result in results if result.workload in compare_lengths]
    # In the order of WORKLOADS: small models first. Unknown workloads come last.
    order = {name: place for place, name in enumerate(WORKLOADS)}
    others = [result for result in results if result.workload not in compare_lengths]
    others.sort(key=lambda result: order.get(result.workload, len(order)))
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results)]
    blocks += [Text("## Which mode to use"), *mode_overview.advice(others)]
    for workload, chosen in by_workload(others).items():
        blocks += _workload_blocks(workload, chosen)
    blocks += _length_blocks(by_length)
    blocks += claims_blocks(results)
    caveats = [text for text, applies in _CAVEATS.items() if applies(results)]
    return Page(PAGE_NAME, [*blocks, Text("## Caveats"), *bullets(caveats)])


def _workload_blocks(workload: str, results: Sequence[CellResult]) -> list[Block]:
    points = grid_points(results)
    comparisons = compare_modes(results)
    blocks: list[Block] = [Text(f"## Workload {code(workload)}")]
    others = [comparison for comparison in comparisons if comparison.memory_mode != REFERENCE_MODE]
    if others:
        overview = mode_overview.overview_table(results, name=f"overview-{workload}")
        if overview.rows:
            blocks += [Text("### The modes side by side"), overview]
        blocks += [
            Text(f"### The modes against `{REFERENCE_MODE}`"),
            *bullets([comparison.in_words for comparison in others]),
            comparison_table(comparisons, name=f"comparison-{workload}"),
        ]
    blocks += _pictures(workload, points)
    blocks += [Text("### All grid points"), cell_table(points, name=f"cells-{workload}")]
    return [*blocks, *failures(results)]


def _length_blocks(results: Sequence[CellResult]) -> list[Block]:
    """Equal cells of workloads that differ in text length."""
    if not results:
        return []
    points = grid_points(results)
    lines = _lines([(point, WORKLOADS[point.first.workload].max_length) for point in points])
    tokens = Column("tokens", lambda point: number(WORKLOADS[point.first.workload].max_length, "d"))
    return [
        Text(_BY_LENGTH),
        *picture("memory-by-length", "memory against text length", plot_scaling, lines, "tokens of each text"),
        cell_table(points, name="cells-length", first=[tokens]),
    ]


def _lines(points: Sequence[tuple[GridPoint, int]]) -> dict[str, list[tuple[float, float]]]:
    """Mode -> (size, added bytes) of grid points, each with its size."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point, size in points:
        if (added := point.median(added_bytes)) is not None:
            lines.setdefault(point.first.memory_mode, []).append((size, added))
    return lines


def _pictures(workload: str, points: Sequence[GridPoint]) -> list[Block]:
    """The pictures with enough figures, each over the setup that most grid points share."""
    timelines = _timelines(points)
    setup = Counter(setup_key(point.first) for point in points).most_common(1)[0][0]
    points = [point for point in points if setup_key(point.first) == setup]
    trades = [
        TradePoint(
            mode=point.first.memory_mode,
            label=f"b{point.first.batch_size} a{point.first.gradient_accumulation_steps}",
            time_s=time_s,
            added_bytes=added,
        )
        for point in points
        if (time_s := point.median(wall_time_s)) is not None and (added := point.median(added_bytes)) is not None
    ]
    plain = [point for point in points if point.first.gradient_accumulation_steps == 1]
    by_batch = _lines([(point, point.first.batch_size) for point in plain])
    lines = {mode: line for mode, line in by_batch.items() if len(line) > 1}
    along = "queries in a batch"
    return [
        *picture(f"memory-against-time-{workload}", "memory against time", plot_memory_against_time, trades),
        *picture(f"memory-by-batch-{workload}", "memory against batch size", plot_scaling, lines, along),
        *picture(f"timelines-{workload}", "memory over time by phase", plot_timelines, timelines),
        *picture(f"learning-{workload}", "loss and MRR@10 by mode", plot_learning, _learning(plain)),
    ]


def _timelines(points: Sequence[GridPoint]) -> dict[str, list[Sample]]:
    """Mode -> samples, at the first grid point that has a timeline."""
    recorded = [(point.first, run.memory_timeline) for point in points for run in point.ok if run.memory_timeline]
    by_point = group_by(recorded, lambda item: (item[0].batch_size, item[0].gradient_accumulation_steps))
    chosen = next(iter(by_point.values()), [])
    return {result.memory_mode: [Sample(**sample) for sample in samples] for result, samples in chosen}


def _learning(points: Sequence[GridPoint]) -> dict[str, CellResult]:
    """Mode -> its first run at the largest batch, of grid points without accumulation."""
    learned = [point.ok[0] for point in points if point.ok and point.ok[0].losses and point.ok[0].metrics]
    largest = max((run.batch_size for run in learned), default=0)
    by_mode = {run.memory_mode: run for run in learned if run.batch_size == largest}
    return {mode: by_mode[mode] for mode in modes_of(list(by_mode.values()))}
