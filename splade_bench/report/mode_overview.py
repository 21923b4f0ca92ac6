"""The source's comparison of trainers, with measured figures in place of adjectives, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from splade_bench.config import MEMORY_MODES, MEMORY_TECHNIQUES, memory_mode
from splade_bench.report.markdown import code
from splade_bench.report.modes import (
    REFERENCE_MODE,
    accumulated_pairs,
    differences,
    matched_pairs,
    modes_of,
    ratios,
)
from splade_bench.report.page import Block, Table, bullets
from splade_bench.report.tables import (
    MISSING,
    MRR_EQUAL_WITHIN,
    Figure,
    above_baseline_bytes,
    figures,
    in_mib,
    median_and_range,
    mrr_at_10,
    number,
    over_runs,
    queries_per_s,
    surroundings,
    wall_time_s,
)
from splade_bench.results.records import CellResult

# Below such a change two medians are taken for equal.
_EQUAL_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class _Trainers:
    """The cells of the modes that have a name of their own, and the grid point at which absolute figures stand."""

    results: Sequence[CellResult]
    modes: Sequence[str]
    batch_size: int
    accumulation: int
    around: tuple[object, ...]
    """Machine, source tree and whatever else has to be the same there."""

    def at_point(self, mode: str) -> list[CellResult]:
        """Runs of ``mode`` there that ended well."""
        return [
            result
            for result in self.results
            if (result.memory_mode, result.batch_size, result.gradient_accumulation_steps, surroundings(result))
            == (mode, self.batch_size, self.accumulation, self.around)
        ]


def trainers_table(results: Sequence[CellResult], *, name: str) -> Table:
    """A column a trainer, a row an aspect of the source's page; no rows where they share no grid point.

    Absolute figures are of the largest batch that all of them were run with; ratios are of all pairs.
    """
    trainers = _shared(results)
    if trainers is None:
        return Table(name=name, headings=[], rows=[])
    where = f"batch {trainers.batch_size} × {trainers.accumulation}"
    rows = [
        _absolute(trainers, f"memory: peak RSS, MiB, {where}", in_mib(lambda result: result.peak_rss_bytes), ".0f"),
        _ratio(trainers, f"memory above the baseline ÷ {REFERENCE_MODE}", above_baseline_bytes),
        _absolute(trainers, f"training speed: queries/s, {where}", queries_per_s, ".1f"),
        _ratio(trainers, f"training time ÷ {REFERENCE_MODE}", wall_time_s),
        _each(trainers, f"retrieval quality: MRR@10 − {REFERENCE_MODE}", _mrr_difference),
        _each(trainers, "gradient accumulation: memory above the baseline ÷ that of one batch as large", _accumulation),
        _each(trainers, "device selection: measured here on", _devices),
        _each(trainers, "memory tracking", lambda trainers, mode: "--memory-tracking"),
        _each(trainers, "advanced memory optimisations", lambda trainers, mode: _techniques(mode)),
        _each(trainers, "ease of use", lambda trainers, mode: f"--memory-mode {mode}"),
    ]
    return Table(name=name, headings=["", *trainers.modes], rows=rows)


def advice(results: Sequence[CellResult]) -> list[Block]:
    """Which mode to take for what, from the cells of each workload in which several modes were run."""
    rows: list[list[str]] = []
    notes: list[str] = []
    for workload in dict.fromkeys(result.workload for result in results):
        trainers = _shared([result for result in results if result.workload == workload])
        if trainers is not None:
            rows += _advice_rows(workload, trainers)
            notes += _dominated(workload, trainers)
    if not rows:
        return bullets(["No workload was run in several modes at one grid point: nothing to choose from."])
    return [Table(name="advice", headings=["workload", "if you want", "take", "because"], rows=rows), *bullets(notes)]


def _shared(results: Sequence[CellResult]) -> _Trainers | None:
    """The grid point with the largest batch at which most of the named modes ended well; None below two modes."""
    ok = [
        result
        for result in results
        if result.status == "ok" and result.memory_mode in MEMORY_MODES and result.max_steps is None
    ]
    modes_at: dict[tuple[int, int, tuple[object, ...]], set[str]] = {}
    for result in ok:
        key = result.batch_size, result.gradient_accumulation_steps, surroundings(result)
        modes_at.setdefault(key, set()).add(result.memory_mode)
    shared = {key: modes for key, modes in modes_at.items() if len(modes) > 1}
    if not shared:
        return None
    chosen = max(shared, key=lambda key: (len(shared[key]), key[0], -key[1]))
    return _Trainers(ok, [mode for mode in modes_of(ok) if mode in shared[chosen]], *chosen)


def _each(trainers: _Trainers, heading: str, text: Callable[[_Trainers, str], str]) -> list[str]:
    return [heading, *(text(trainers, mode) for mode in trainers.modes)]


def _absolute(trainers: _Trainers, heading: str, figure: Figure, form: str) -> list[str]:
    return _each(trainers, heading, lambda trainers, mode: over_runs(trainers.at_point(mode), figure, form))


def _ratio(trainers: _Trainers, heading: str, figure: Figure) -> list[str]:
    return _each(
        trainers,
        heading,
        lambda trainers, mode: median_and_range(ratios(matched_pairs(trainers.results, mode), figure), ".2f"),
    )


def _mrr_difference(trainers: _Trainers, mode: str) -> str:
    return median_and_range(differences(matched_pairs(trainers.results, mode), mrr_at_10), "+.3f")


def _accumulation(trainers: _Trainers, mode: str) -> str:
    of_mode = [result for result in trainers.results if result.memory_mode == mode]
    return median_and_range(ratios(accumulated_pairs(of_mode), above_baseline_bytes), ".2f")


def _devices(trainers: _Trainers, mode: str) -> str:
    devices = dict.fromkeys(result.device for result in trainers.results if result.memory_mode == mode)
    return ", ".join(devices) or MISSING


def _techniques(mode: str) -> str:
    """How many of the techniques are on."""
    memory = memory_mode(mode)
    on = sum(technique.is_on(memory) for technique in MEMORY_TECHNIQUES.values())
    return f"{on} of {len(MEMORY_TECHNIQUES)} techniques"


def _advice_rows(workload: str, trainers: _Trainers) -> list[list[str]]:
    times = _medians(trainers, wall_time_s)
    peaks = _medians(trainers, in_mib(lambda result: result.peak_rss_bytes))
    if not times or not peaks:
        return []
    where = f"batch {trainers.batch_size} × {trainers.accumulation}"
    wishes: dict[str, list[str]] = {}
    for wish, best in (("the fastest training", times), ("the least memory", peaks)):
        wishes.setdefault(min(best, key=lambda mode: best[mode]), []).append(wish)
    return [
        [
            workload,
            " and ".join(wanted),
            mode,
            f"{_of_mode(mode, times, peaks)} at {where}; {_others(mode, times, peaks)}",
        ]
        for mode, wanted in wishes.items()
    ]


def _of_mode(mode: str, times: Mapping[str, float], peaks: Mapping[str, float]) -> str:
    return f"{number(times.get(mode), '.1f')} s and {number(peaks.get(mode), '.0f')} MiB peak RSS"


def _others(mode: str, times: Mapping[str, float], peaks: Mapping[str, float]) -> str:
    return ", ".join(f"{other} {_of_mode(other, times, peaks)}" for other in times if other != mode)


def _medians(trainers: _Trainers, figure: Figure) -> dict[str, float]:
    found = {mode: figures(trainers.at_point(mode), figure) for mode in trainers.modes}
    return {mode: statistics.median(values) for mode, values in found.items() if values}


def _dominated(workload: str, trainers: _Trainers) -> list[str]:
    """Modes that another beats in memory and time at every grid point that both were run at, no worse in quality."""
    lines = []
    for mode in trainers.modes:
        for other in trainers.modes:
            pairs = matched_pairs(trainers.results, other, mode)
            memory = ratios(pairs, above_baseline_bytes)
            time = ratios(pairs, wall_time_s)
            mrr = differences(pairs, mrr_at_10)
            is_better = memory and time and max(memory) < 1 - _EQUAL_WITHIN and max(time) < 1 - _EQUAL_WITHIN
            if other != mode and is_better and min(mrr, default=0.0) >= -MRR_EQUAL_WITHIN:
                quality = f"lost no more than {MRR_EQUAL_WITHIN:g} in MRR@10" if mrr else "MRR@10 was not measured"
                lines.append(
                    f"{code(workload)}: nothing speaks for **{mode}** where **{other}** can be had: it took less "
                    f"memory and less time wherever both were run (matched pairs: {len(pairs)}), and {quality}."
                )
                break
    return lines
