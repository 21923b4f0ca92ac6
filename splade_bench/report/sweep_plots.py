"""Pictures of a sweep: memory, time and quality of many runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

from matplotlib.axes import Axes

from splade_bench.config import MEMORY_MODES
from splade_bench.measure.timeline import Sample
from splade_bench.report.drawing import COLOURS, INK, Target, cycle_colours, drawing, label
from splade_bench.units import as_mib


@dataclass(frozen=True, kw_only=True, slots=True)
class TradePoint:
    """A grid point: medians over its runs."""

    mode: str
    label: str
    time_s: float
    added_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectBar:
    """Medians of a technique."""

    technique: str
    saved_mib: float
    time_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """A mode's losses over the queries seen, and its MRR@10 before and after training."""

    mode: str
    queries: Sequence[float]
    losses: Sequence[float]
    mrr_before: float | None
    mrr_after: float | None


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
        axes.set_xlabel("training time, s")
        axes.set_ylabel("added memory, MiB")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK)


def plot_effects(bars: Sequence[EffectBar], target: Target) -> None:
    """For each technique a bar for the MiB that it saves and one for the change of time; costs are red."""
    places = range(len(bars))
    with drawing(target, columns=2, share_y=True, height_in=0.8 + 0.3 * len(bars)) as (saves, costs):
        _bars(saves, places, [bar.saved_mib for bar in bars], good_above=True)
        _bars(costs, places, [100 * (bar.time_ratio - 1) for bar in bars], good_above=False)
        saves.set_yticks(list(places), [label(bar.technique) for bar in bars])
        saves.invert_yaxis()
        saves.set_xlabel("saves, MiB")
        costs.set_xlabel("change of time, %")


def _bars(axes: Axes, places: Iterable[int], values: Sequence[float], *, good_above: bool) -> None:
    colours = [COLOURS[3] if (value >= 0) == good_above else COLOURS[0] for value in values]
    axes.barh(list(places), values, color=colours, height=0.6)
    axes.axvline(0, color=INK, linewidth=0.8)


def plot_timelines(timelines: Mapping[str, Sequence[Sample]], target: Target) -> None:
    """Resident memory over time, coloured by phase; one panel per mode, with a common memory axis."""
    phases = list(dict.fromkeys(sample.phase for samples in timelines.values() for sample in samples))
    colour_of = dict(zip(phases, cycle_colours(), strict=False))
    with drawing(target, columns=len(timelines), share_y=True) as panels:
        for axes, (mode, samples) in zip(panels, timelines.items(), strict=True):
            for phase in phases:
                shown = [as_mib(sample.rss_bytes) if sample.phase == phase else 0 for sample in samples]
                times_s = [sample.time_s for sample in samples]
                named = label(phase.replace("_", " ")) if axes is panels[0] else None
                axes.fill_between(times_s, shown, step="post", color=colour_of[phase], linewidth=0, label=named)
            axes.set_title(label(mode), fontsize=10)
            axes.set_xlabel("time, s")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("resident memory, MiB")
        panels[0].figure.legend(frameon=False, labelcolor=INK, ncols=len(phases), loc="outside lower center")


def plot_learning(curves: Sequence[LearningCurve], target: Target) -> None:
    """Loss over the queries seen, and MRR@10 before and after training; one line per mode."""
    with drawing(target, columns=2) as (loss, mrr):
        colours = colours_of(curve.mode for curve in curves)
        for number, curve in enumerate(curves):
            colour = colours[curve.mode]
            # Each line is thinner than the one below it, so that equal modes all show.
            width = 1.2 + 1.6 * (len(curves) - 1 - number)
            loss.plot(curve.queries, curve.losses, color=colour, linewidth=width, label=label(curve.mode))
            if curve.mrr_before is not None and curve.mrr_after is not None:
                mrr.plot([0, 1], [curve.mrr_before, curve.mrr_after], color=colour, linewidth=width, marker="o")
        loss.set_xlabel("queries seen")
        loss.set_ylabel("loss")
        loss.legend(frameon=False, labelcolor=INK)
        mrr.set_xticks([0, 1], ["before", "after"])
        mrr.set_ylabel("MRR@10")
        mrr.set_xlim(-0.2, 1.2)
        mrr.set_ylim(bottom=0)


def plot_scaling(lines: Mapping[str, Sequence[tuple[float, float]]], along: str, target: Target) -> None:
    """Added memory against a size; one line per mode through its points (size, bytes). ``along`` names the size."""
    with drawing(target) as (axes,):
        colours = colours_of(lines)
        for mode, points in lines.items():
            colour = colours[mode]
            sizes, heights = zip(*sorted(points), strict=True)
            axes.plot(sizes, [as_mib(height) for height in heights], color=colour, marker="o", label=label(mode))
        axes.set_xlabel(along)
        axes.set_ylabel("added memory, MiB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK)


def smoothed(values: Sequence[float], *, pieces: int = 40) -> tuple[list[float], list[float]]:
    """Means of up to ``pieces`` parts of a series: positions of their centres from 0 to 1, and the means."""
    pieces = min(pieces, len(values))
    bounds = [len(values) * piece // pieces for piece in range(pieces + 1)]
    middles = [(start + end) / 2 / len(values) for start, end in pairwise(bounds)]
    return middles, [statistics.mean(values[start:end]) for start, end in pairwise(bounds)]
