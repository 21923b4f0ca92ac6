"""Pictures of one run and of plans."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.axes import Axes

from splade_bench.measure.timeline import Sample, Timeline
from splade_bench.report.drawing import COLOURS, INK, Target, cycle_colours, drawing
from splade_bench.units import as_mib

_INTERVALS = 120
# A step begins where one of these phases ends and another phase follows.
_BETWEEN_STEPS = ("setup", "batching", "optimizer_step")


def plot_timeline(timeline: Timeline, target: Target) -> None:
    """Resident memory over the whole run, and over the optimizer step with the peak; coloured by phase."""
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
        step.set_title("the optimizer step with the peak (axis cut)", fontsize=10)
        if at_peak:
            sizes = [as_mib(sample.rss_bytes) for sample in at_peak]
            step.set_ylim(bottom=max(0.0, min(sizes) - 0.5 * (max(sizes) - min(sizes)) - 1))
            step.legend(frameon=False, labelcolor=INK, ncols=4, loc="upper left")


def plot_planned_against_measured(pairs: Sequence[tuple[float, float]], target: Target) -> None:
    """A point for each (planned, measured) in bytes, and the line of equal values."""
    planned, measured = ([as_mib(size_bytes) for size_bytes in side] for side in zip(*pairs, strict=True))
    with drawing(target) as (axes,):
        ends = [min(*planned, *measured) / 1.3, max(*planned, *measured) * 1.3]
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        axes.scatter(measured, planned, color=COLOURS[2], s=24)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured added memory, MiB")
        axes.set_ylabel("planned, MiB")


def plot_plan(peaks: Sequence[tuple[str, int]], target: Target) -> None:
    """The phases of a planned optimizer step in order: a bar for each (phase, peak in bytes)."""
    phases = list(dict.fromkeys(phase for phase, _ in peaks))
    with drawing(target) as (axes,):
        for phase, colour in zip(phases, cycle_colours(), strict=False):
            bars = [(place, as_mib(peak_bytes)) for place, (name, peak_bytes) in enumerate(peaks) if name == phase]
            places, heights = zip(*bars, strict=True)
            axes.bar(places, heights, width=1.0, align="edge", color=colour, alpha=0.75, label=phase.replace("_", " "))
        axes.set_xticks([])
        axes.set_xlabel("one optimizer step, phase by phase")
        axes.set_ylabel("planned memory, MiB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK, ncols=len(phases), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def peaks_by_phase(samples: Sequence[Sample]) -> dict[str, tuple[list[float], list[float]]]:
    """Phase -> times in seconds and peaks in MiB, for up to 120 equal intervals of the run."""
    if not samples:
        return {}
    interval_s = max(samples[-1].time_s / _INTERVALS, 1e-9)
    peaks: dict[str, dict[int, int]] = {}
    for sample in samples:
        of_phase = peaks.setdefault(sample.phase, {})
        interval = int(sample.time_s / interval_s)
        of_phase[interval] = max(of_phase.get(interval, 0), sample.rss_bytes)
    return {
        phase: ([interval * interval_s for interval in of_phase], list(map(as_mib, of_phase.values())))
        for phase, of_phase in peaks.items()
    }


def step_at_peak(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of the optimizer step with the peak, from its first forward pass to its update."""
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


def _draw_phase(axes: Axes, samples: Sequence[Sample], phase: str, colour: str) -> None:
    """A bar for each sample of ``phase``, which ends at the next sample."""
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
