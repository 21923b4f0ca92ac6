"""Pictures of one run: its memory over time, and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.axes import Axes

from splade_bench.measure.timeline import Sample, Timeline
from splade_bench.report.drawing import COLOURS, INK, Target, cycle_colours, drawing
from splade_bench.units import as_mib

_STRETCHES = 120


def plot_timeline(timeline: Timeline, target: Target) -> None:
    """Resident memory over the whole run, and over the optimizer step that holds the peak, with its phases."""
    phases = list(dict.fromkeys(sample.phase for sample in timeline.samples))
    colour_of = dict(zip(phases, cycle_colours(), strict=False))
    with drawing(target, columns=2) as (whole, step):
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
            step.legend(frameon=False, labelcolor=INK, ncols=4, loc="upper left")


def plot_planned_against_measured(pairs: Sequence[tuple[float, float]], target: Target) -> None:
    """A point for each (planned, measured) in bytes, and the line on which they are equal."""
    planned, measured = ([as_mib(size_bytes) for size_bytes in side] for side in zip(*pairs, strict=True))
    with drawing(target) as (axes,):
        ends = [min(*planned, *measured) / 1.3, max(*planned, *measured) * 1.3]
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        axes.scatter(measured, planned, color=COLOURS[2], s=24)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured peak RSS above baseline, MiB")
        axes.set_ylabel("planned, MiB")


def plot_plan(stretches: Sequence[tuple[str, int]], target: Target) -> None:
    """The phases of a planned optimizer step in their order, as (phase, peak in bytes): a bar each."""
    phases = list(dict.fromkeys(phase for phase, _ in stretches))
    with drawing(target) as (axes,):
        for phase, colour in zip(phases, cycle_colours(), strict=False):
            bars = [(place, as_mib(peak_bytes)) for place, (name, peak_bytes) in enumerate(stretches) if name == phase]
            places, heights = zip(*bars, strict=True)
            axes.bar(places, heights, width=1.0, align="edge", color=colour, alpha=0.75, label=phase.replace("_", " "))
        axes.set_xticks([])
        axes.set_xlabel("an optimizer step, from one phase to the next")
        axes.set_ylabel("planned memory, MiB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK, ncols=len(phases), loc="lower center", bbox_to_anchor=(0.5, 1.0))


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
