"""The trade-off page: what was run, what it cost, how the modes compare, and which to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.timeline import Sample
from splade_bench.report import caveats, claims, mode_overview
from splade_bench.report.cells import Column, GridPoint, cell_table, grid_points
from splade_bench.report.drawing import svg_of
from splade_bench.report.markdown import code, escape
from splade_bench.report.modes import (
    REFERENCE_MODE,
    ModeComparison,
    compare_modes,
    comparison_table,
    modes_of,
)
from splade_bench.report.page import Block, Page, Picture, Text, bullets
from splade_bench.report.tables import (
    above_baseline_bytes,
    conditions,
    median_and_range,
    number,
    problems,
    wall_time_s,
)
from splade_bench.report.trade_plots import (
    LearningCurve,
    TradePoint,
    plot_learning,
    plot_memory_against_time,
    plot_scaling,
    plot_timelines,
    smoothed,
)
from splade_bench.results.records import CellResult

PAGE_NAME = "TRADEOFFS"
_INTRODUCTION = """\
# Trade-offs: memory, time and quality

Written by `splade-bench report` from recorded results; do not edit. Each run is a training in a process of its own,
each row the runs of one grid point over its seeds: median and range. *Peak RSS* is the kernel's high-water mark of the
whole process, the Python runtime included, from before the model exists to the last optimizer step; *above baseline*
leaves the runtime out. *Time* is the training loop alone. *Live* are the bytes of all tensors and *memray* is the heap
above the loaded model, both for the widest batch in processes of their own. *Validation loss* is on fixed held-out
batches of 32, so it may be compared across batch sizes; *final loss* may not. MRR@10 ranks held-out queries against the
whole corpus, before and after training.
"""
_BY_LENGTH = """\
## By length

The `length-*` workloads: a model of 2 x 128 with BERT's vocabulary, random token ids, every text at the length that the
workload is named after.
"""


def tradeoffs_page(results: Sequence[CellResult]) -> Page:
    """The page of all workloads that have one here."""
    names = {name for name, workload in WORKLOADS.items() if workload.compares_lengths}
    by_length = [result for result in results if result.workload in names]
    others = sorted((result for result in results if result.workload not in names), key=_place_of_workload)
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions(results)]
    blocks += [Text("## When to use which"), *mode_overview.advice(others)]
    for workload in dict.fromkeys(result.workload for result in others):
        blocks += _workload_blocks(workload, [result for result in others if result.workload == workload])
    blocks += _length_blocks(by_length)
    judged = claims.judge_all(results)
    blocks += [Text(claims.INTRODUCTION), claims.claims_table(judged), *claims.claims_details(judged)]
    return Page(PAGE_NAME, [*blocks, Text("## Read with care"), *bullets(caveats.caveats(results))])


def _place_of_workload(result: CellResult) -> int:
    """The small models first, as they are registered; what is unknown here comes last."""
    names = list(WORKLOADS)
    return names.index(result.workload) if result.workload in names else len(names)


def _workload_blocks(workload: str, results: Sequence[CellResult]) -> list[Block]:
    points = grid_points(results)
    comparisons = compare_modes(results)
    blocks: list[Block] = [Text(f"## Workload {code(workload)}")]
    if any(comparison.memory_mode != REFERENCE_MODE for comparison in comparisons):
        side_by_side = mode_overview.trainers_table(results, name=f"trainers-{workload}")
        if side_by_side.rows:
            blocks += [Text("### The trainers side by side"), side_by_side]
        blocks += [
            Text("### The modes compared"),
            *bullets(_verdicts(comparisons)),
            comparison_table(comparisons, name=f"comparison-{workload}"),
        ]
    blocks += _pictures(workload, points)
    blocks += [Text("### Every grid point"), cell_table(points, name=f"cells-{workload}")]
    failed = problems(results, lambda result: result.cell_id)
    return [*blocks, *bullets(failed, heading="Not measured to the end:")]


def _length_blocks(results: Sequence[CellResult]) -> list[Block]:
    """Equal cells of workloads that differ in the length of their texts."""
    if not results:
        return []
    points = grid_points(results)
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        added_bytes = point.median(above_baseline_bytes)
        length = _length(point)
        if added_bytes is not None and length is not None:
            lines.setdefault(point.first.memory_mode, []).append((length, added_bytes))
    blocks: list[Block] = [Text(_BY_LENGTH)]
    if lines:
        svg = svg_of(plot_scaling, lines, "tokens of each text")
        blocks.append(Picture(name="memory-by-length", caption="memory as texts grow", svg=svg))
    tokens = Column("tokens", lambda point: number(_length(point), "d"))
    return [*blocks, cell_table(points, name="cells-length", first=[tokens])]


def _length(point: GridPoint) -> int | None:
    workload = WORKLOADS.get(point.first.workload)
    return workload.max_length if workload else None


def _verdicts(comparisons: Sequence[ModeComparison]) -> list[str]:
    lines = []
    for comparison in comparisons:
        if comparison.memory_mode == REFERENCE_MODE:
            continue
        mrr = median_and_range(comparison.mrr_differences, "+.3f")
        lines.append(
            f"**{escape(comparison.memory_mode)}** takes "
            f"{median_and_range(comparison.above_baseline_ratios, '.2f')} times the memory above baseline and "
            f"{median_and_range(comparison.time_ratios, '.2f')} times the time of `{REFERENCE_MODE}`"
            f"{f', with {mrr} MRR@10' if comparison.mrr_differences else ''}: "
            f"median and range; matched pairs: {comparison.pairs}."
        )
    return lines


def _pictures(workload: str, points: Sequence[GridPoint]) -> list[Block]:
    """Those for which there are enough figures, each of what was taken alike: the surroundings of most grid points."""
    pictures: list[Block] = []
    timelines = _timelines(points)
    around = Counter(point.around for point in points).most_common(1)[0][0]
    points = [point for point in points if point.around == around]
    trades = [
        TradePoint(
            mode=point.first.memory_mode,
            label=f"b{point.first.batch_size} a{point.first.gradient_accumulation_steps}",
            time_s=time_s,
            added_bytes=added_bytes,
        )
        for point in points
        if (time_s := point.median(wall_time_s)) is not None
        and (added_bytes := point.median(above_baseline_bytes)) is not None
    ]
    if trades:
        svg = svg_of(plot_memory_against_time, trades)
        pictures.append(Picture(name=f"memory-against-time-{workload}", caption="memory against time", svg=svg))
    lines = _scaling(points)
    if lines:
        svg = svg_of(plot_scaling, lines, "queries in a batch")
        pictures.append(Picture(name=f"memory-by-batch-{workload}", caption="memory as the batch grows", svg=svg))
    if timelines:
        svg = svg_of(plot_timelines, timelines)
        pictures.append(Picture(name=f"timelines-{workload}", caption="memory over time by phase", svg=svg))
    curves = _learning(points)
    if curves:
        svg = svg_of(plot_learning, curves)
        pictures.append(Picture(name=f"learning-{workload}", caption="loss and MRR@10 by mode", svg=svg))
    return pictures


def _scaling(points: Sequence[GridPoint]) -> dict[str, list[tuple[float, float]]]:
    """Mode -> (batch size, bytes above the baseline), of modes that were run at several batch sizes."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        added_bytes = point.median(above_baseline_bytes)
        if point.first.gradient_accumulation_steps == 1 and added_bytes is not None:
            lines.setdefault(point.first.memory_mode, []).append((point.first.batch_size, added_bytes))
    return {mode: line for mode, line in lines.items() if len(line) > 1}


def _timelines(points: Sequence[GridPoint]) -> dict[str, list[Sample]]:
    """Mode -> samples, at the first grid point of which a timeline was recorded."""
    recorded = [(point.first, run.memory_timeline) for point in points for run in point.ok if run.memory_timeline]
    chosen = [
        (result.memory_mode, samples)
        for result, samples in recorded
        if (result.batch_size, result.gradient_accumulation_steps)
        == (recorded[0][0].batch_size, recorded[0][0].gradient_accumulation_steps)
    ]
    return {mode: [Sample(**sample) for sample in samples] for mode, samples in chosen}


def _learning(points: Sequence[GridPoint]) -> list[LearningCurve]:
    """The modes at the largest batch without accumulation, each the first of its runs."""
    plain = [point for point in points if point.first.gradient_accumulation_steps == 1 and point.ok]
    plain = [point for point in plain if point.ok[0].losses and point.ok[0].metrics]
    largest = max((point.first.batch_size for point in plain), default=0)
    by_mode = {point.first.memory_mode: point.ok[0] for point in plain if point.first.batch_size == largest}
    curves = []
    for mode in modes_of(list(by_mode.values())):
        run = by_mode[mode]
        places, losses = smoothed(run.losses or [])
        curves.append(
            LearningCurve(
                mode=mode,
                queries=[place * (run.queries_seen or 0) for place in places],
                losses=losses,
                mrr_before=(run.metrics_before or {}).get("mrr@10"),
                mrr_after=(run.metrics or {}).get("mrr@10"),
            )
        )
    return curves
