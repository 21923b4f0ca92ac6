"""Pictures of memory over time: of one run, of a run in each memory mode, and of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

from matplotlib.axes import Axes

from splade_bench.measure.timeline import Sample, Timeline
from splade_bench.report.drawing import COLOURS, Target, drawing, label
from splade_bench.report.readers import group_by
from splade_bench.units import as_mib

_LINE_INTERVALS = 120
# As many as a picture has pixels for, at the width that a page gives it.
_AREA_INTERVALS = 400
# A step begins where one of these phases ends and another phase follows.
_BETWEEN_STEPS = ("setup", "batching", "optimizer_step")


def plot_timeline(timeline: Timeline, target: Target) -> None:
    """Resident memory over the whole run, and over the optimizer step with the peak; coloured by phase."""
    by_phase = group_by(thinned(timeline.samples, _LINE_INTERVALS), lambda sample: sample.phase)
    colour_of = dict(zip(by_phase, cycle(COLOURS), strict=False))
    with drawing(target, columns=2) as (whole, step):
        for phase, samples in by_phase.items():
            sizes = [as_mib(sample.rss_bytes) for sample in samples]
            whole.plot([sample.time_s for sample in samples], sizes, color=colour_of[phase], linewidth=1.2)
        whole.set(xlabel="time, s", ylabel="resident memory, MiB", ylim=(0, None), title="the whole run")
        step.set(xlabel="time, s", title="the optimizer step with the peak (axis cut)")
        at_peak = step_at_peak(timeline.samples)
        for phase in dict.fromkeys(sample.phase for sample in at_peak):
            _fill(step, at_peak, phase, color=colour_of[phase], alpha=0.75, label=phase.replace("_", " "))
        if at_peak:
            sizes = [as_mib(sample.rss_bytes) for sample in at_peak]
            step.set_ylim(bottom=max(0.0, min(sizes) - 0.5 * (max(sizes) - min(sizes)) - 1))
            step.legend(ncols=4, loc="upper left")


def plot_timelines(timelines: Mapping[str, Sequence[Sample]], target: Target) -> None:
    """Resident memory over time, coloured by phase; one panel per mode, with a common memory axis.

    The legend has no phase that takes less time than a panel's width can show.
    """
    intervals = _AREA_INTERVALS // len(timelines)
    phases = list(dict.fromkeys(sample.phase for samples in timelines.values() for sample in samples))
    visible = {phase for samples in timelines.values() for phase in _visible_phases(samples, intervals)}
    colour_of = dict(zip(phases, cycle(COLOURS), strict=False))
    with drawing(target, columns=len(timelines), share_y=True) as panels:
        for axes, (mode, samples) in zip(panels, timelines.items(), strict=True):
            shown = thinned(samples, intervals)
            for phase in phases:
                named = label(phase.replace("_", " ")) if axes is panels[0] and phase in visible else None
                _fill(axes, shown, phase, color=colour_of[phase], label=named)
            axes.set(title=label(mode), xlabel="time, s", ylim=(0, None))
        panels[0].set_ylabel("resident memory, MiB")
        panels[0].figure.legend(ncols=len(phases), loc="outside lower center")


def plot_plan(peaks: Sequence[tuple[str, int]], target: Target) -> None:
    """The phases of a planned optimizer step in order: a bar for each (phase, peak in bytes)."""
    phases = list(dict.fromkeys(phase for phase, _ in peaks))
    with drawing(target) as (axes,):
        for phase, colour in zip(phases, cycle(COLOURS), strict=False):
            bars = [(place, as_mib(peak_bytes)) for place, (name, peak_bytes) in enumerate(peaks) if name == phase]
            places, heights = zip(*bars, strict=True)
            axes.bar(places, heights, width=1.0, align="edge", color=colour, alpha=0.75, label=phase.replace("_", " "))
        axes.set(xticks=[], xlabel="one optimizer step, phase by phase", ylabel="planned memory, MiB", ylim=(0, None))
        axes.legend(ncols=len(phases), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def thinned(samples: Sequence[Sample], intervals: int) -> list[Sample]:
    """Of each phase the highest sample in each of so many equal intervals of the run; also the first and the last."""
    if not samples:
        return []
    start_s, end_s = samples[0].time_s, samples[-1].time_s
    interval_s = (end_s - start_s) / intervals or 1.0
    groups = group_by(samples, lambda sample: (int((sample.time_s - start_s) / interval_s), sample.phase)).values()
    kept = {samples[0], samples[-1], *(max(group, key=lambda sample: sample.rss_bytes) for group in groups)}
    return [sample for sample in samples if sample in kept]


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


def _visible_phases(samples: Sequence[Sample], intervals: int) -> list[str]:
    """The phases that take at least one of so many equal intervals of the run, all their parts together."""
    by_phase = group_by(pairwise(samples), lambda pair: pair[0].phase)
    times_s = {phase: sum(end.time_s - start.time_s for start, end in pairs) for phase, pairs in by_phase.items()}
    return [phase for phase, time_s in times_s.items() if time_s >= sum(times_s.values()) / intervals]


def _fill(axes: Axes, samples: Sequence[Sample], phase: str, **style: Any) -> None:
    """Fill the area under the samples of ``phase``, each of which lasts until the next sample."""
    sizes = [as_mib(sample.rss_bytes) if sample.phase == phase else 0.0 for sample in samples]
    changes = [0, *(number for number in range(1, len(sizes)) if sizes[number] != sizes[number - 1])]
    edges = [*(samples[number].time_s for number in changes), samples[-1].time_s]
    axes.stairs([sizes[number] for number in changes], edges, fill=True, **style)
