"""The article's comparison of trainers with measured figures, one column per memory mode, and advice on the mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from splade_bench.memory_modes import MEMORY_MODES, MEMORY_TECHNIQUES, memory_mode
from splade_bench.report.formatting import MRR_EQUAL_WITHIN, median_and_range, number
from splade_bench.report.markdown import code
from splade_bench.report.modes import (
    REFERENCE_MODE,
    ModeComparison,
    accumulated_pairs,
    differences,
    matched_pairs,
    modes_of,
    ratios,
)
from splade_bench.report.page import Block, Table, bullets
from splade_bench.report.readers import by_workload, group_by, in_mib, median_of, over_runs, succeeded
from splade_bench.results.conditions import setup_key
from splade_bench.results.figures import Reader, added_bytes, mrr_at_10, peak_bytes, queries_per_s, wall_time_s
from splade_bench.results.records import CellResult

# Two medians that are nearer than this count as equal.
_EQUAL_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class _SharedPoint:
    """Successful cells of the named modes, and the grid point at which the modes are compared."""

    results: Sequence[CellResult]
    name: str
    at_point: Mapping[str, Sequence[CellResult]]
    """Mode -> its cells at the grid point."""


def overview_table(results: Sequence[CellResult], *, name: str) -> Table:
    """A column per mode, a row per aspect of the article's table; no rows if the modes share no grid point.

    Absolute figures are those of the largest batch that all of these modes ran with. Ratios are over all pairs.
    """
    shared = _shared_point(results)
    if shared is None:
        return Table(name=name, headings=[], rows=[])

    def at_point(reader: Reader, form: str) -> Callable[[str], str]:
        return lambda mode: over_runs(shared.at_point[mode], reader, form)

    by_mode = group_by(shared.results, lambda run: run.memory_mode)
    against = {mode: ModeComparison(mode, matched_pairs(shared.results, mode)) for mode in shared.at_point}
    techniques = MEMORY_TECHNIQUES.values()
    are_on = {mode: sum(technique.is_on(memory_mode(mode)) for technique in techniques) for mode in shared.at_point}
    rows: Mapping[str, Callable[[str], str]] = {
        f"memory: peak, MiB, {shared.name}": at_point(in_mib(peak_bytes), ".0f"),
        f"added memory ÷ {REFERENCE_MODE}": lambda mode: against[mode].ratio(added_bytes),
        f"training speed: queries/s, {shared.name}": at_point(queries_per_s, ".1f"),
        f"training time ÷ {REFERENCE_MODE}": lambda mode: against[mode].ratio(wall_time_s),
        f"retrieval quality: MRR@10 − {REFERENCE_MODE}": lambda mode: against[mode].mrr_difference,
        "gradient accumulation: added memory ÷ that of one batch of the same size": lambda mode: median_and_range(
            ratios(accumulated_pairs(by_mode[mode]), added_bytes), ".2f"
        ),
        "device: measured here on": lambda mode: ", ".join(dict.fromkeys(run.device for run in by_mode[mode])),
        "memory tracking": lambda mode: "--memory-tracking",
        "memory techniques": lambda mode: f"{are_on[mode]} of {len(techniques)} are on",
        "how to use it": lambda mode: f"--memory-mode {mode}",
    }
    return Table(
        name=name,
        headings=["", *shared.at_point],
        rows=[[heading, *map(text, shared.at_point)] for heading, text in rows.items()],
    )


def advice(results: Sequence[CellResult]) -> list[Block]:
    """Which mode to use for speed and for memory, for each workload that ran in several modes."""
    rows: list[list[str]] = []
    notes: list[str] = []
    for workload, chosen in by_workload(results).items():
        shared = _shared_point(chosen)
        if shared is not None:
            rows += _advice_rows(workload, shared)
            notes += _dominated(workload, shared)
    if not rows:
        return bullets(["No workload ran in several modes at one grid point, so no mode is recommended."])
    return [Table(name="advice", headings=["workload", "if you want", "use", "because"], rows=rows), *bullets(notes)]


def _shared_point(results: Sequence[CellResult]) -> _SharedPoint | None:
    """The grid point with most named modes, and among those with the largest batch; None below two modes."""
    named = [result for result in succeeded(results) if result.memory_mode in MEMORY_MODES and result.max_steps is None]
    points = group_by(named, lambda run: (run.batch_size, run.gradient_accumulation_steps, setup_key(run)))
    modes_at = {point: modes_of(runs) for point, runs in points.items()}
    chosen = max(modes_at, key=lambda point: (len(modes_at[point]), point[0], -point[1]), default=None)
    if chosen is None or len(modes_at[chosen]) < 2:
        return None
    by_mode = group_by(points[chosen], lambda run: run.memory_mode)
    in_order = {mode: by_mode[mode] for mode in modes_at[chosen]}
    return _SharedPoint(named, f"batch {chosen[0]} × {chosen[1]}", in_order)


def _advice_rows(workload: str, shared: _SharedPoint) -> list[list[str]]:
    times, peaks = (
        {mode: value for mode in shared.at_point if (value := median_of(shared.at_point[mode], reader)) is not None}
        for reader in (wall_time_s, in_mib(peak_bytes))
    )
    if not times or not peaks:
        return []

    def costs(mode: str) -> str:
        return f"{number(times.get(mode), '.1f')} s and {number(peaks.get(mode), '.0f')} MiB peak memory"

    best = {"the fastest training": min(times, key=lambda mode: times[mode])}
    best["the least memory"] = min(peaks, key=lambda mode: peaks[mode])
    rows = []
    for mode, wishes in group_by(best, best.__getitem__).items():
        others = ", ".join(f"{other} {costs(other)}" for other in times if other != mode)
        rows.append([workload, " and ".join(wishes), mode, f"{costs(mode)} at {shared.name}; {others}"])
    return rows


def _dominated(workload: str, shared: _SharedPoint) -> list[str]:
    """Modes that another beats in memory and time at every grid point of both, without a loss in quality."""
    lines = []
    for mode in shared.at_point:
        for other in shared.at_point:
            pairs = matched_pairs(shared.results, other, mode)
            worst = [max(ratios(pairs, reader), default=1.0) for reader in (added_bytes, wall_time_s)]
            mrr = differences(pairs, mrr_at_10)
            if other == mode or max(worst) >= 1 - _EQUAL_WITHIN or min(mrr, default=0.0) < -MRR_EQUAL_WITHIN:
                continue
            quality = f"lost at most {MRR_EQUAL_WITHIN:g} in MRR@10" if mrr else "MRR@10 was not measured"
            lines.append(
                f"{code(workload)}: **{other}** is better than **{mode}**. It took less memory and less time in "
                f"every matched pair ({len(pairs)}), and {quality}."
            )
            break
    return lines
