"""The statistics that decide the article's claims. Each gives (seed, value) pairs; only equal runs are paired."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

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
from splade_bench.report.readers import group_by, in_gib, recorded, succeeded
from splade_bench.results.conditions import pair_key
from splade_bench.results.figures import (
    Reader,
    added_bytes,
    mrr_at_10,
    peak_rss_bytes,
    queries_per_s,
    step_time_s,
    wall_time_s,
)
from splade_bench.results.records import CellResult

SeedValues: TypeAlias = Iterator[tuple[int, float]]
# Times of equal cells differ by this much: a smaller ratio counts as none.
_SLOWER_BY = 1.05
_LAPTOP_CELL = ("cpu", 4, 4)  # device, batch size and gradient accumulation


def accumulated_memory(results: Sequence[CellResult]) -> SeedValues:
    """Added memory of small accumulated batches, divided by that of one large batch."""
    return _ratios(accumulated_pairs(_standard(results)), added_bytes)


def accumulated_mrr(results: Sequence[CellResult]) -> SeedValues:
    """MRR@10 of small accumulated batches minus that of one large batch."""
    return _differences(accumulated_pairs(_standard(results)), mrr_at_10)


def time_per_accumulated_step(results: Sequence[CellResult]) -> SeedValues:
    """Seconds of an optimizer step per batch in it, divided by those of a step with one batch."""
    return _accumulation_time(results, step_time_s)


def time_per_query_and_step(results: Sequence[CellResult]) -> SeedValues:
    """Seconds per query and accumulation step, divided by those without accumulation."""
    return _accumulation_time(results, lambda result: 1 / rate if (rate := queries_per_s(result)) else None)


def cpu_over_accelerator(results: Sequence[CellResult]) -> SeedValues:
    """Time on the CPU divided by that of the same cell on an accelerator."""

    def without_device(result: CellResult) -> tuple[object, ...]:
        machine = {name: value for name, value in result.machine.items() if name != "device"}
        return pair_key(replace(result, device="cpu", machine=machine)), result.memory_mode, result.round

    on_cpu = {without_device(result): result for result in succeeded(results) if result.device == "cpu"}
    elsewhere = [result for result in succeeded(results) if result.device in ("cuda", "mps")]
    keyed = [(without_device(result), result) for result in elsewhere]
    return _ratios([(on_cpu[key], result) for key, result in keyed if key in on_cpu], wall_time_s)


def leanest_is_slowest(results: Sequence[CellResult]) -> SeedValues:
    """1 where the mode with the least memory at a grid point takes the most time, else 0."""
    named = [
        result
        for result in succeeded(results)
        if result.memory_mode in MEMORY_MODES and result.wall_time_s and added_bytes(result)
    ]
    for runs in group_by(named, lambda result: (pair_key(result), result.round)).values():
        if len(runs) > 1:
            leanest = min(runs, key=lambda run: added_bytes(run) or 0)
            yield leanest.seed, float(leanest is max(runs, key=lambda run: run.wall_time_s or 0))


def leaner_is_slower(results: Sequence[CellResult]) -> SeedValues:
    """1 where a mode that takes less memory than standard takes more time, else 0."""
    for mode in _other_modes(results):
        for pair in matched_pairs(results, mode):
            memory, times = (ratios([pair], reader) for reader in (added_bytes, wall_time_s))
            if memory and times and memory[0] < 1 / _SLOWER_BY:
                yield pair[0].seed, float(times[0] > _SLOWER_BY)


def article_memory(results: Sequence[CellResult]) -> SeedValues:
    """Added memory of the article's mode divided by that of the standard one."""
    return _ratios(matched_pairs(results, "article"), added_bytes)


def mode_mrr(results: Sequence[CellResult]) -> SeedValues:
    """For each mode but standard: MRR@10 minus that of standard, the median over grid points."""
    for mode in _other_modes(results):
        found = group_by(_differences(matched_pairs(results, mode), mrr_at_10), lambda item: item[0])
        for seed, items in found.items():
            yield seed, statistics.median(value for _, value in items)


def candidate_precision(results: Sequence[CellResult]) -> SeedValues:
    """P@1 where each query ranks only its own positive and negatives."""
    return _values(succeeded(results), recorded("candidate_p@1"))


def laptop_peak_gib(results: Sequence[CellResult]) -> SeedValues:
    """Peak RSS in GiB of the base model with the article's settings on the CPU, trained as in the article."""
    base = {name for name, workload in WORKLOADS.items() if workload.model_name == "base"}
    chosen = [
        result
        for result in succeeded(results)
        if result.workload in base
        and (result.device, result.batch_size, result.gradient_accumulation_steps) == _LAPTOP_CELL
        and result.memory_mode in (REFERENCE_MODE, "article")
    ]
    return _values(chosen, in_gib(peak_rss_bytes))


def accumulation_over_best_technique(results: Sequence[CellResult]) -> SeedValues:
    """Memory that accumulation saves, divided by the most that one technique added to standard saves."""
    return _accumulation_over_best(results, [f"{REFERENCE_MODE}+{technique}" for technique in MEMORY_TECHNIQUES])


def accumulation_over_memory_efficient(results: Sequence[CellResult]) -> SeedValues:
    """Memory that accumulation saves, divided by what the memory-efficient mode saves."""
    return _accumulation_over_best(results, ["memory-efficient"])


def _accumulation_over_best(results: Sequence[CellResult], modes: Sequence[str]) -> SeedValues:
    """Memory that accumulation saves, divided by the most that one of ``modes`` saves at the same effective batch."""
    best: dict[int, float] = {}
    for run, standard in (pair for mode in modes for pair in matched_pairs(results, mode)):
        if (size_bytes := added_bytes(run)) is not None:
            best[id(standard)] = min(size_bytes, best.get(id(standard), size_bytes))
    for small, large in accumulated_pairs(_standard(results)):
        at_once, accumulated, other = added_bytes(large), added_bytes(small), best.get(id(large))
        if at_once is not None and accumulated is not None and other is not None and other < at_once:
            yield large.seed, (at_once - accumulated) / (at_once - other)


def ladder_memory(results: Sequence[CellResult]) -> SeedValues:
    """Added memory of the first step of the article's list, divided by that of its last step."""
    return _ratios(_ladder(results), added_bytes)


def ladder_time(results: Sequence[CellResult]) -> SeedValues:
    """Time of the first step of the article's list, divided by that of its last step."""
    return _ratios(_ladder(results), wall_time_s)


def _ladder(results: Sequence[CellResult]) -> list[Pair]:
    """Small standard batches accumulated, and one memory-efficient batch of the same size."""
    efficient = {id(standard): run for run, standard in matched_pairs(results, "memory-efficient")}
    pairs = accumulated_pairs(_standard(results))
    return [(small, efficient[id(large)]) for small, large in pairs if id(large) in efficient]


def _accumulation_time(results: Sequence[CellResult], reader: Reader) -> SeedValues:
    """A time per accumulation step, divided by that of the same cell without accumulation."""
    standard = succeeded(_standard(results))
    once = {pair_key(run): run for run in standard if run.gradient_accumulation_steps == 1}
    for run in standard:
        steps = run.gradient_accumulation_steps
        plain = once.get(pair_key(replace(run, gradient_accumulation_steps=1)))
        if steps > 1 and plain is not None:
            yield from ((seed, value / steps) for seed, value in _ratios([(run, plain)], reader))


def _standard(results: Sequence[CellResult]) -> list[CellResult]:
    return [result for result in results if result.memory_mode == REFERENCE_MODE]


def _other_modes(results: Sequence[CellResult]) -> list[str]:
    """The named modes of the results without the reference mode."""
    return [mode for mode in modes_of(results) if mode in MEMORY_MODES and mode != REFERENCE_MODE]


def _values(results: Sequence[CellResult], reader: Reader) -> SeedValues:
    return ((result.seed, value) for result in results if (value := reader(result)) is not None)


def _ratios(pairs: Sequence[Pair], reader: Reader) -> SeedValues:
    return ((pair[0].seed, value) for pair in pairs for value in ratios([pair], reader))


def _differences(pairs: Sequence[Pair], reader: Reader) -> SeedValues:
    return ((pair[0].seed, value) for pair in pairs for value in differences([pair], reader))
