"""The statistics that decide the article's claims, computed from runs and pairs of equal runs, with their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from splade_bench.grid.workloads import WORKLOADS
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.report.modes import (
    REFERENCE_MODE,
    Pair,
    accumulated_pairs,
    differences,
    matched_pairs,
    modes_of,
    ratios,
)
from splade_bench.report.readers import group_by, succeeded
from splade_bench.results.conditions import pair_key
from splade_bench.results.figures import Reader, added_bytes, mrr_at_10, queries_per_s, step_time_s, wall_time_s
from splade_bench.results.records import CellResult

SeedValues: TypeAlias = Iterator[tuple[int, float]]
Statistic: TypeAlias = Callable[[Sequence[CellResult]], SeedValues]
"""Its values with the seeds of their runs."""
# Times of equal cells differ by this much: a smaller ratio counts as none.
_SLOWER_BY = 1.05
_LAPTOP_CELL = ("cpu", 4, 4)  # device, batch size and gradient accumulation


def figure(runs_of: Callable[[Sequence[CellResult]], list[CellResult]], reader: Reader) -> Statistic:
    """The figure of each of the chosen runs."""
    return lambda results: ((run.seed, value) for run in runs_of(results) if (value := reader(run)) is not None)


def ratio(pairs_of: Callable[[Sequence[CellResult]], list[Pair]], reader: Reader) -> Statistic:
    """The figure of the first of each pair divided by that of the second."""
    return lambda results: ((pair[0].seed, value) for pair in pairs_of(results) for value in ratios([pair], reader))


def difference(pairs_of: Callable[[Sequence[CellResult]], list[Pair]], reader: Reader) -> Statistic:
    """The figure of the first of each pair minus that of the second."""
    return lambda results: (
        (pair[0].seed, value) for pair in pairs_of(results) for value in differences([pair], reader)
    )


def accumulated(results: Sequence[CellResult]) -> list[Pair]:
    """Small accumulated batches and one large batch, in the reference mode."""
    return accumulated_pairs(_standard(results))


def article_and_standard(results: Sequence[CellResult]) -> list[Pair]:
    """Runs of the article's mode, each with the equal run of the reference mode."""
    return matched_pairs(results, "article")


def first_and_last_step(results: Sequence[CellResult]) -> list[Pair]:
    """The ends of the article's list: small batches accumulated, and one memory-efficient batch of the same size."""
    efficient = {id(standard): run for run, standard in matched_pairs(results, "memory-efficient")}
    pairs = accumulated(results)
    return [(small, efficient[id(large)]) for small, large in pairs if id(large) in efficient]


def with_and_without_accumulation(results: Sequence[CellResult]) -> list[Pair]:
    """Runs of the reference mode that accumulate, each with the equal run that does not."""
    standard = succeeded(_standard(results))
    once = {pair_key(run): run for run in standard if run.gradient_accumulation_steps == 1}
    keyed = [
        (run, pair_key(replace(run, gradient_accumulation_steps=1)))
        for run in standard
        if run.gradient_accumulation_steps > 1
    ]
    return [(run, once[key]) for run, key in keyed if key in once]


def cpu_and_accelerator(results: Sequence[CellResult]) -> list[Pair]:
    """Runs on the CPU, each with the same cell's run on an accelerator."""

    def without_device(result: CellResult) -> tuple[object, ...]:
        machine = {name: value for name, value in result.machine.items() if name != "device"}
        return pair_key(replace(result, device="cpu", machine=machine)), result.memory_mode, result.round

    on_cpu = {without_device(result): result for result in succeeded(results) if result.device == "cpu"}
    elsewhere = [result for result in succeeded(results) if result.device in ("cuda", "mps")]
    keyed = [(without_device(result), result) for result in elsewhere]
    return [(on_cpu[key], result) for key, result in keyed if key in on_cpu]


def on_a_laptop(results: Sequence[CellResult]) -> list[CellResult]:
    """Runs of the base model with the article's settings on the CPU, trained as in the article."""
    base = {name for name, workload in WORKLOADS.items() if workload.model_name == "base"}
    return [
        result
        for result in succeeded(results)
        if result.workload in base
        and (result.device, result.batch_size, result.gradient_accumulation_steps) == _LAPTOP_CELL
        and result.memory_mode in (REFERENCE_MODE, "article")
    ]


def step_time_per_batch(result: CellResult) -> float | None:
    """Seconds of an optimizer step per batch in it."""
    return None if (time_s := step_time_s(result)) is None else time_s / result.gradient_accumulation_steps


def query_time_per_batch(result: CellResult) -> float | None:
    """Seconds per query and per batch in an optimizer step."""
    return 1 / rate / result.gradient_accumulation_steps if (rate := queries_per_s(result)) else None


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


def mode_mrr(results: Sequence[CellResult]) -> SeedValues:
    """For each mode but standard: MRR@10 minus that of standard, the median over grid points."""
    for mode in _other_modes(results):
        for seed, pairs in group_by(matched_pairs(results, mode), lambda pair: pair[0].seed).items():
            if values := differences(pairs, mrr_at_10):
                yield seed, statistics.median(values)


def accumulation_over_best(modes: Sequence[str]) -> Statistic:
    """Memory that accumulation saves, divided by the most that one of ``modes`` saves at the same effective batch."""

    def statistic(results: Sequence[CellResult]) -> SeedValues:
        best: dict[int, float] = {}
        for run, standard in (pair for mode in modes for pair in matched_pairs(results, mode)):
            if (size_bytes := added_bytes(run)) is not None:
                best[id(standard)] = min(size_bytes, best.get(id(standard), size_bytes))
        for small, large in accumulated(results):
            at_once, in_parts, other = added_bytes(large), added_bytes(small), best.get(id(large))
            if at_once is not None and in_parts is not None and other is not None and other < at_once:
                yield large.seed, (at_once - in_parts) / (at_once - other)

    return statistic


def _standard(results: Sequence[CellResult]) -> list[CellResult]:
    return [result for result in results if result.memory_mode == REFERENCE_MODE]


def _other_modes(results: Sequence[CellResult]) -> list[str]:
    """The named modes of the results without the reference mode."""
    return [mode for mode in modes_of(results) if mode in MEMORY_MODES and mode != REFERENCE_MODE]
