"""Pictures of many runs: memory, time and quality of a sweep, and plans beside measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.report.drawing import COLOURS, INK, Target, drawing, label
from splade_bench.report.readers import mrr_before
from splade_bench.results.figures import mrr_at_10
from splade_bench.results.records import CellResult
from splade_bench.units import as_mib


@dataclass(frozen=True, kw_only=True, slots=True)
class TradePoint:
    """A grid point: medians over its runs."""

    mode: str
    label: str
    time_s: float
    added_bytes: float


def colours_of(modes: Iterable[str]) -> dict[str, str]:
    """A colour for each mode. A mode of MEMORY_MODES has the same colour in all pictures."""
    named = dict(zip(MEMORY_MODES, COLOURS, strict=False))
    others = cycle(COLOURS[len(named) :])
    return {mode: named.get(mode) or next(others) for mode in dict.fromkeys(modes)}


def markers_of(modes: Iterable[str]) -> dict[str, str]:
    """A shape for each mode: dots for the modes of MEMORY_MODES. Other modes share colours, so their shapes differ."""
    others = cycle("s^DvP")
    return {mode: "o" if mode in MEMORY_MODES else next(others) for mode in dict.fromkeys(modes)}


def pareto_front(points: Iterable[TradePoint]) -> list[TradePoint]:
    """The points that no other beats in both time and memory, fastest first."""
    front: list[TradePoint] = []
    for point in sorted(points, key=lambda point: (point.time_s, point.added_bytes)):
        if not front or point.added_bytes < front[-1].added_bytes:
            front.append(point)
    return front


def plot_memory_against_time(points: Sequence[TradePoint], target: Target) -> None:
    """Added memory against seconds of training, coloured by mode, with the Pareto front."""
    with drawing(target) as (axes,):
        front = pareto_front(points)
        axes.step(
            [point.time_s for point in front],
            [as_mib(point.added_bytes) for point in front],
            where="post",
            color=INK,
            linewidth=0.8,
            label="none is better in both",
        )
        modes = [point.mode for point in points]
        markers = markers_of(modes)
        for mode, colour in colours_of(modes).items():
            of_mode = [(point.time_s, as_mib(point.added_bytes), point) for point in points if point.mode == mode]
            xs, ys = [x for x, _, _ in of_mode], [y for _, y, _ in of_mode]
            axes.scatter(xs, ys, color=colour, marker=markers[mode], label=label(mode), s=36)
            for x, y, point in of_mode:
                axes.annotate(label(point.label), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set(xlabel="training time, s", ylabel="added memory, MiB", xlim=(0, None), ylim=(0, None))
        axes.legend()


def plot_frontiers(curves: Mapping[str, Sequence[tuple[float, float]]], target: Target) -> None:
    """Peak memory against seconds of an optimizer step: a curve for each contender through its (seconds, bytes)."""
    with drawing(target) as (axes,):
        shapes = zip(cycle(COLOURS), cycle("osD^vPX"), strict=False)
        for (name, points), (colour, marker) in zip(curves.items(), shapes, strict=False):
            times_s, sizes = zip(*sorted(points, key=lambda point: point[1]), strict=True)
            axes.plot(
                times_s,
                [as_mib(size_bytes) for size_bytes in sizes],
                color=colour,
                marker=marker,
                linewidth=1.2,
                label=label(name),
            )
        axes.set(xlabel="s per optimizer step", ylabel="peak memory, MiB", xlim=(0, None), ylim=(0, None))
        axes.legend()


def plot_effects(effects: Mapping[str, tuple[float, float]], target: Target) -> None:
    """For each technique a bar for the MiB that it saves and one for its change of time in percent; costs are red."""
    names = [label(technique) for technique in effects]
    saved, slower = zip(*effects.values(), strict=True)
    with drawing(target, columns=2, share_y=True, height_in=0.8 + 0.3 * len(effects)) as (saves, costs):
        for axes, values, good_above in ((saves, saved, True), (costs, slower, False)):
            colours = [COLOURS[3] if (value >= 0) == good_above else COLOURS[0] for value in values]
            axes.barh(range(len(names)), values, color=colours, height=0.6)
            axes.axvline(0, color=INK, linewidth=0.8)
        saves.set_yticks(range(len(names)), names)
        saves.invert_yaxis()
        saves.set_xlabel("saves, MiB")
        costs.set_xlabel("change of time, %")


def plot_planned_against_measured(pairs: Sequence[tuple[float, float]], target: Target) -> None:
    """A point for each (planned, measured) in bytes, and the line of equal values."""
    planned, measured = ([as_mib(size_bytes) for size_bytes in side] for side in zip(*pairs, strict=True))
    with drawing(target) as (axes,):
        ends = [min(*planned, *measured) / 1.3, max(*planned, *measured) * 1.3]
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        axes.scatter(measured, planned, color=COLOURS[2], s=24)
        axes.set(xscale="log", yscale="log", xlabel="measured added memory, MiB", ylabel="planned, MiB")


def plot_learning(runs: Mapping[str, CellResult], target: Target) -> None:
    """Each mode's loss over the queries seen, and its MRR@10 before and after training."""
    with drawing(target, columns=2) as (loss, mrr):
        colours = colours_of(runs)
        for number, (mode, run) in enumerate(runs.items()):
            # Each line is thinner than the one below it, so that equal modes all show.
            width = 1.2 + 1.6 * (len(runs) - 1 - number)
            places, losses = smoothed([value for value in run.losses or [] if value is not None])
            queries = [place * (run.queries_seen or 0) for place in places]
            loss.plot(queries, losses, color=colours[mode], linewidth=width, label=label(mode))
            before, after = mrr_before(run), mrr_at_10(run)
            if before is not None and after is not None:
                mrr.plot([0, 1], [before, after], color=colours[mode], linewidth=width, marker="o")
        loss.set(xlabel="queries seen", ylabel="loss")
        loss.legend()
        mrr.set_xticks([0, 1], ["before", "after"])
        mrr.set(ylabel="MRR@10", xlim=(-0.2, 1.2), ylim=(0, None))


def plot_scaling(lines: Mapping[str, Sequence[tuple[float, float]]], along: str, target: Target) -> None:
    """Added memory against a size; one line per mode through its points (size, bytes). ``along`` names the size."""
    with drawing(target) as (axes,):
        for mode, colour in colours_of(lines).items():
            sizes, heights = zip(*sorted(lines[mode]), strict=True)
            axes.plot(sizes, [as_mib(height) for height in heights], color=colour, marker="o", label=label(mode))
        axes.set(xlabel=along, ylabel="added memory, MiB", ylim=(0, None))
        axes.legend()


def smoothed(values: Sequence[float], *, pieces: int = 40) -> tuple[list[float], list[float]]:
    """Means of up to ``pieces`` parts of a series: positions of their centres from 0 to 1, and the means."""
    pieces = min(pieces, len(values))
    bounds = [len(values) * piece // pieces for piece in range(pieces + 1)]
    middles = [(start + end) / 2 / len(values) for start, end in pairwise(bounds)]
    return middles, [statistics.mean(values[start:end]) for start, end in pairwise(bounds)]
