"""The figures that decide the article's claims: results in, seed -> values out. Only equal runs are paired."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from splade_bench.config import MEMORY_MODES, MEMORY_TECHNIQUES
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.report.modes import (
    REFERENCE_MODE,
    Pair,
    accumulated_pairs,
    differences,
    matched_pairs,
    modes_of,
    ratios,
)
from splade_bench.report.tables import (
    Figure,
    above_baseline_bytes,
    grid_point,
    mrr_at_10,
    queries_per_s,
    step_time_s,
    wall_time_s,
)
from splade_bench.results.records import CellResult

BySeed = Mapping[int, Sequence[float]]
_GIB = 2**30
# Two times nearer than this are taken for equal: so much do runs of the same cell differ.
_SLOWER_BY = 1.05
_SINGLE_TECHNIQUES = frozenset(f"{REFERENCE_MODE}+{technique}" for technique in MEMORY_TECHNIQUES)


def accumulated_memory(results: Sequence[CellResult]) -> BySeed:
    """Memory above the baseline of small accumulated batches over that of one large batch."""
    return _ratios_by_seed(accumulated_pairs(_standard(results)), above_baseline_bytes)


def accumulated_mrr(results: Sequence[CellResult]) -> BySeed:
    """MRR@10 of small accumulated batches less that of one large batch."""
    return _by_seed(accumulated_pairs(_standard(results)), lambda pairs: differences(pairs, mrr_at_10))


def time_per_accumulated_step(results: Sequence[CellResult]) -> BySeed:
    """Seconds of an optimizer step for each of its batches, over those of a step of one batch."""
    return _accumulation_time(results, step_time_s)


def time_per_query_and_step(results: Sequence[CellResult]) -> BySeed:
    """Seconds a query for each accumulation step, over those without accumulation."""

    def seconds_per_query(result: CellResult) -> float | None:
        rate = queries_per_s(result)
        return 1 / rate if rate else None

    return _accumulation_time(results, seconds_per_query)


def cpu_over_accelerator(results: Sequence[CellResult]) -> BySeed:
    """Time on the CPU over that of the same cell, mode and seed on an accelerator."""
    ok = _ok(results)
    cpus = {_without_device(result): result for result in ok if result.device == "cpu"}
    pairs = [
        (cpus[_without_device(result)], result)
        for result in ok
        if result.device in ("cuda", "mps") and _without_device(result) in cpus
    ]
    return _ratios_by_seed(pairs, wall_time_s)


def leanest_is_slowest(results: Sequence[CellResult]) -> BySeed:
    """1 where, of the modes at a grid point, that with the least memory takes the most time; else 0."""
    found: dict[int, list[float]] = {}
    for runs in _modes_by_grid_point(results).values():
        known = [run for run in runs if run.wall_time_s and above_baseline_bytes(run)]
        if len(known) > 1:
            leanest = min(known, key=lambda run: above_baseline_bytes(run) or 0)
            slowest = max(known, key=lambda run: run.wall_time_s or 0)
            found.setdefault(leanest.seed, []).append(float(leanest is slowest))
    return _means(found)


def leaner_is_slower(results: Sequence[CellResult]) -> BySeed:
    """Of the modes that take less memory than standard at a grid point, the share that takes more time."""
    found: dict[int, list[float]] = {}
    for mode in modes_of(results):
        if mode == REFERENCE_MODE or mode not in MEMORY_MODES:
            continue
        for run, standard in matched_pairs(results, mode):
            memory, times = (ratios([(run, standard)], figure) for figure in (above_baseline_bytes, wall_time_s))
            if memory and times and memory[0] < 1 / _SLOWER_BY:
                found.setdefault(run.seed, []).append(float(times[0] > _SLOWER_BY))
    return _means(found)


def article_memory(results: Sequence[CellResult]) -> BySeed:
    """Memory above the baseline of the article's mode over that of the standard one."""
    return _ratios_by_seed(matched_pairs(results, "article"), above_baseline_bytes)


def mode_mrr(results: Sequence[CellResult]) -> BySeed:
    """MRR@10 of the worst other mode less that of the standard one."""
    found: dict[int, list[float]] = {}
    for mode in modes_of(results):
        if mode != REFERENCE_MODE and mode in MEMORY_MODES:
            by_seed = _by_seed(matched_pairs(results, mode), lambda pairs: differences(pairs, mrr_at_10))
            for seed, values in by_seed.items():
                if values:
                    found.setdefault(seed, []).append(statistics.median(values))
    return {seed: [min(medians)] for seed, medians in found.items()}


def candidate_precision(results: Sequence[CellResult]) -> BySeed:
    """P@1 where each query ranks its own positive and negatives only."""
    found: dict[int, list[float]] = {}
    for result in _ok(results):
        value = result.figure("candidate_p@1")
        if value is not None:
            found.setdefault(result.seed, []).append(value)
    return found


def laptop_peak_gib(results: Sequence[CellResult]) -> BySeed:
    """Peak RSS in GiB of the article's settings with the base model on the CPU, as the article trains it."""
    found: dict[int, list[float]] = {}
    for result in _ok(results):
        workload = WORKLOADS.get(result.workload)
        is_laptop_run = (
            workload is not None
            and workload.model_name == "base"
            and (result.device, result.batch_size, result.gradient_accumulation_steps) == ("cpu", 4, 4)
            and result.memory_mode in (REFERENCE_MODE, "article")
        )
        if is_laptop_run and result.peak_rss_bytes:
            found.setdefault(result.seed, []).append(result.peak_rss_bytes / _GIB)
    return found


def accumulation_over_best_technique(results: Sequence[CellResult]) -> BySeed:
    """Memory that accumulation saves over the most that a technique added by itself saves."""
    return _accumulation_over_best(results, [mode for mode in modes_of(results) if mode in _SINGLE_TECHNIQUES])


def accumulation_over_memory_efficient(results: Sequence[CellResult]) -> BySeed:
    """Memory that accumulation saves over what the memory-efficient mode saves."""
    return _accumulation_over_best(results, ["memory-efficient"])


def _accumulation_over_best(results: Sequence[CellResult], modes: Sequence[str]) -> BySeed:
    """Memory that accumulation saves over the most that one of ``modes`` saves, at one effective batch."""
    best: dict[int, int] = {}
    for mode in modes:
        for run, standard in matched_pairs(results, mode):
            added_bytes = above_baseline_bytes(run)
            if added_bytes is not None:
                best[id(standard)] = min(added_bytes, best.get(id(standard), added_bytes))
    found: dict[int, list[float]] = {}
    for small, large in accumulated_pairs(_standard(results)):
        at_once, accumulated, other = above_baseline_bytes(large), above_baseline_bytes(small), best.get(id(large))
        if at_once is not None and accumulated is not None and other is not None and other < at_once:
            found.setdefault(large.seed, []).append((at_once - accumulated) / (at_once - other))
    return found


def ladder_memory(results: Sequence[CellResult]) -> BySeed:
    """Memory of the ladder's first rung over that of its last."""
    return _ratios_by_seed(_ladder(results), above_baseline_bytes)


def ladder_time(results: Sequence[CellResult]) -> BySeed:
    """Time of the ladder's first rung over that of its last."""
    return _ratios_by_seed(_ladder(results), wall_time_s)


def _ladder(results: Sequence[CellResult]) -> list[Pair]:
    """Small standard batches accumulated, and one memory-efficient batch as large."""
    efficient = {id(standard): run for run, standard in matched_pairs(results, "memory-efficient")}
    return [
        (small, efficient[id(large)])
        for small, large in accumulated_pairs(_standard(results))
        if id(large) in efficient
    ]


def _accumulation_time(results: Sequence[CellResult], figure: Figure) -> BySeed:
    """``figure`` by accumulation step, over that of the same cell without accumulation."""
    standard = _ok(_standard(results))
    once = {grid_point(run): run for run in standard if run.gradient_accumulation_steps == 1}
    found: dict[int, list[float]] = {}
    for run in standard:
        steps = run.gradient_accumulation_steps
        plain = once.get(grid_point(replace(run, gradient_accumulation_steps=1)))
        if steps > 1 and plain is not None:
            values = [value / steps for value in ratios([(run, plain)], figure)]
            found.setdefault(run.seed, []).extend(values)
    return found


def _modes_by_grid_point(results: Sequence[CellResult]) -> dict[tuple[object, ...], list[CellResult]]:
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for result in _ok(results):
        if result.memory_mode in MEMORY_MODES:
            groups.setdefault((*grid_point(result), result.round), []).append(result)
    return groups


def _standard(results: Sequence[CellResult]) -> list[CellResult]:
    return [result for result in results if result.memory_mode == REFERENCE_MODE]


def _ok(results: Iterable[CellResult]) -> list[CellResult]:
    return [result for result in results if result.status == "ok"]


def _without_device(result: CellResult) -> tuple[object, ...]:
    machine = {name: value for name, value in result.machine.items() if name != "device"}
    return (*grid_point(replace(result, device="cpu", machine=machine)), result.memory_mode, result.round)


def _by_seed(pairs: Sequence[Pair], values: Callable[[Sequence[Pair]], Sequence[float]]) -> BySeed:
    seeds = dict.fromkeys(run.seed for run, _ in pairs)
    return {seed: values([pair for pair in pairs if pair[0].seed == seed]) for seed in seeds}


def _ratios_by_seed(pairs: Sequence[Pair], figure: Figure) -> BySeed:
    return _by_seed(pairs, lambda of_seed: ratios(of_seed, figure))


def _means(found: Mapping[int, Sequence[float]]) -> BySeed:
    """Shares: of yes and no a median would say too little."""
    return {seed: [sum(values) / len(values)] for seed, values in found.items()}
