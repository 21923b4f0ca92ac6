"""Pictures as SVG, the same bytes for the same input, legible on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from splade_bench.measure.timeline import Sample, Timeline
from splade_bench.report.tables import above_baseline_bytes
from splade_bench.results import CellResult
from splade_bench.units import as_mib

_INK = "#7a7a7a"  # a grey with contrast against white and against black
_COLOURS = ("#d1495b", "#e08e29", "#2e86ab", "#5b8c5a", "#8e6bbf", "#6b7a8f")
_STRETCHES = 120
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "splade_bench",  # otherwise element ids are random
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_memory_against_time(results: Sequence[CellResult], path: Path) -> None:
    """One point a cell: seconds of training against memory above the baseline, coloured by mode."""
    with _drawing(path) as (axes,):
        for mode, colour in zip(_modes(results), _cycle_colours(), strict=False):
            points = [
                (result.wall_time_s, as_mib(added), result)
                for result in results
                if result.memory_mode == mode
                and result.wall_time_s is not None
                and (added := above_baseline_bytes(result)) is not None
            ]
            axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], color=colour, label=mode, s=36)
            for x, y, result in points:
                label = f"b{result.batch_size} a{result.gradient_accumulation_steps}"
                axes.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set_xlabel("training time, s")
        axes.set_ylabel("peak RSS above baseline, MiB")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=_INK)


def plot_timeline(timeline: Timeline, path: Path) -> None:
    """Resident memory over the whole run, and over the optimizer step that holds the peak, with its phases."""
    phases = list(dict.fromkeys(sample.phase for sample in timeline.samples))
    colour_of = dict(zip(phases, _cycle_colours(), strict=False))
    with _drawing(path, columns=2) as (whole, step):
        for phase, (times, peaks) in peaks_by_phase(timeline.samples).items():
            whole.plot(times, peaks, color=colour_of[phase], linewidth=1.2)
        whole.set_xlabel("time, s")
        whole.set_ylim(bottom=0)
        whole.set_title("the whole run", fontsize=10)
        whole.set_ylabel("resident memory, MiB")
        at_peak = step_at_peak(timeline.samples)
        for phase in dict.fromkeys(sample.phase for sample in at_peak):
            _draw_phase(step, at_peak, phase, colour_of[phase])
        step.set_title("the optimizer step at its peak (axis cut)", fontsize=10)
        if at_peak:
            sizes = [as_mib(sample.rss_bytes) for sample in at_peak]
            step.set_ylim(bottom=max(0.0, min(sizes) - 0.5 * (max(sizes) - min(sizes)) - 1))
            step.legend(frameon=False, labelcolor=_INK, ncols=4, loc="upper left")


def plot_planned_against_measured(pairs: Sequence[tuple[float, float]], path: Path) -> None:
    """A point for each (planned, measured) in bytes, and the line on which they are equal."""
    planned, measured = ([as_mib(size_bytes) for size_bytes in side] for side in zip(*pairs, strict=True))
    with _drawing(path) as (axes,):
        ends = [min(*planned, *measured) / 1.3, max(*planned, *measured) * 1.3]
        axes.plot(ends, ends, color=_INK, linewidth=0.8)
        axes.scatter(measured, planned, color=_COLOURS[2], s=24)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured peak RSS above baseline, MiB")
        axes.set_ylabel("planned, MiB")


def plot_plan(stretches: Sequence[tuple[str, int]], path: Path) -> None:
    """The phases of a planned optimizer step in their order, as (phase, peak in bytes): a bar each."""
    phases = list(dict.fromkeys(phase for phase, _ in stretches))
    with _drawing(path) as (axes,):
        for phase, colour in zip(phases, _cycle_colours(), strict=False):
            bars = [(place, as_mib(peak_bytes)) for place, (name, peak_bytes) in enumerate(stretches) if name == phase]
            places, heights = zip(*bars, strict=True)
            axes.bar(places, heights, width=1.0, align="edge", color=colour, alpha=0.75, label=phase.replace("_", " "))
        axes.set_xticks([])
        axes.set_xlabel("an optimizer step, from one phase to the next")
        axes.set_ylabel("planned memory, MiB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=_INK, ncols=len(phases), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def peaks_by_phase(samples: Sequence[Sample]) -> dict[str, tuple[list[float], list[float]]]:
    """Phase -> times in seconds and, for each of up to 120 stretches of the run, its largest reading in MiB."""
    if not samples:
        return {}
    stretch_s = max(samples[-1].time_s / _STRETCHES, 1e-9)
    peaks: dict[str, dict[int, int]] = {}
    for sample in samples:
        of_phase = peaks.setdefault(sample.phase, {})
        stretch = int(sample.time_s / stretch_s)
        of_phase[stretch] = max(of_phase.get(stretch, 0), sample.rss_bytes)
    return {
        phase: ([stretch * stretch_s for stretch in found], [as_mib(size_bytes) for size_bytes in found.values()])
        for phase, found in peaks.items()
    }


def step_at_peak(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of the optimizer step that holds the largest one: from its first forward to its last update."""
    if not samples:
        return samples
    peak = max(range(len(samples)), key=lambda number: samples[number].rss_bytes)
    starts = [0] + [
        number
        for number in range(1, len(samples))
        if samples[number - 1].phase in _BETWEEN_STEPS and samples[number].phase not in _BETWEEN_STEPS
    ]
    start = max(number for number in starts if number <= peak)
    end = min((number for number in starts if number > peak), default=len(samples))
    return samples[start:end]


# Before the first step, and while a step's batches are made.
_BETWEEN_STEPS = ("setup", "batching", "optimizer_step")


def _draw_phase(axes: Axes, samples: Sequence[Sample], phase: str, colour: str) -> None:
    """A bar for each sample of ``phase``, as wide as the time to the next sample."""
    bars = [
        (sample.time_s, following.time_s - sample.time_s, as_mib(sample.rss_bytes))
        for sample, following in zip_longest(samples, samples[1:], fillvalue=samples[-1])
        if sample.phase == phase
    ]
    starts, widths, heights = zip(*bars, strict=True)
    axes.bar(
        starts, heights, widths, align="edge", color=colour, alpha=0.75, linewidth=0, label=phase.replace("_", " ")
    )
    axes.set_xlabel("time, s")


@contextmanager
def _drawing(path: Path, *, columns: int = 1) -> Iterator[Sequence[Axes]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7 if columns == 1 else 10, 4.2), layout="constrained")  # no pyplot: nothing global
        yield figure.subplots(1, columns, squeeze=False)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)


def _modes(results: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(result.memory_mode for result in results))


def _cycle_colours() -> Iterator[str]:
    while True:
        yield from _COLOURS
