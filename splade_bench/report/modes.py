"""A mode against another, pair by pair: the same grid point and seed, machine and source tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from splade_bench.config import MEMORY_MODES
from splade_bench.report.page import Table
from splade_bench.report.tables import (
    Figure,
    above_baseline_bytes,
    grid_point,
    median_and_range,
    mrr_at_10,
    peak_rss_bytes,
    surroundings,
    wall_time_s,
)
from splade_bench.results.records import CellResult

REFERENCE_MODE = "standard"
Pair = tuple[CellResult, CellResult]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeComparison:
    """A mode against the reference mode, over the grid points that were measured in both."""

    memory_mode: str
    pairs: int
    peak_ratios: Sequence[float]
    above_baseline_ratios: Sequence[float]
    time_ratios: Sequence[float]
    mrr_differences: Sequence[float]


def modes_of(results: Sequence[CellResult]) -> list[str]:
    """The modes of the results: those of the table in its order, then any other."""
    found = dict.fromkeys(result.memory_mode for result in results)
    return [*(mode for mode in MEMORY_MODES if mode in found), *(mode for mode in found if mode not in MEMORY_MODES)]


def matched_pairs(results: Sequence[CellResult], mode: str, reference: str = REFERENCE_MODE) -> list[Pair]:
    """Runs of ``mode`` that ended well, each with its equal in ``reference``."""
    ok = [result for result in results if result.status == "ok"]
    others = {(grid_point(result), result.round): result for result in ok if result.memory_mode == reference}
    keyed = (((grid_point(result), result.round), result) for result in ok if result.memory_mode == mode)
    return [(result, others[key]) for key, result in keyed if key in others]


def accumulated_pairs(results: Sequence[CellResult]) -> list[Pair]:
    """Pairs of the same effective batch, mode and seed: the first has the smaller batch, accumulated more often."""
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for result in results:
        if result.status == "ok":
            effective = result.batch_size * result.gradient_accumulation_steps
            alike = result.workload, result.device, result.memory_mode, result.seed, result.round
            groups.setdefault((effective, *alike, *surroundings(result)), []).append(result)
    by_size = [sorted(group, key=lambda result: result.batch_size) for group in groups.values()]
    return [pair for group in by_size for pair in combinations(group, 2) if pair[0].batch_size < pair[1].batch_size]


def ratios(pairs: Sequence[Pair], figure: Figure) -> list[float]:
    """The figure of the first of each pair over that of the second, where both were measured."""
    both = [(figure(result), figure(other)) for result, other in pairs]
    return [value / other for value, other in both if value is not None and other]


def differences(pairs: Sequence[Pair], figure: Figure) -> list[float]:
    """The figure of the first of each pair less that of the second, where both were measured."""
    both = [(figure(result), figure(other)) for result, other in pairs]
    return [value - other for value, other in both if value is not None and other is not None]


def compare_modes(results: Sequence[CellResult]) -> list[ModeComparison]:
    """Each mode's ratios to ``standard``."""
    comparisons = []
    for mode in modes_of(results):
        pairs = matched_pairs(results, mode)
        if pairs:
            comparisons.append(
                ModeComparison(
                    memory_mode=mode,
                    pairs=len(pairs),
                    peak_ratios=ratios(pairs, peak_rss_bytes),
                    above_baseline_ratios=ratios(pairs, above_baseline_bytes),
                    time_ratios=ratios(pairs, wall_time_s),
                    mrr_differences=differences(pairs, mrr_at_10),
                )
            )
    return comparisons


def comparison_table(comparisons: Sequence[ModeComparison], *, name: str) -> Table:
    """Medians with their range, as multiples of ``standard``."""
    headings = [
        "mode",
        "pairs",
        f"peak RSS ÷ {REFERENCE_MODE}",
        f"above baseline ÷ {REFERENCE_MODE}",
        f"time ÷ {REFERENCE_MODE}",
        f"MRR@10 − {REFERENCE_MODE}",
    ]
    rows = [
        [
            comparison.memory_mode,
            str(comparison.pairs),
            median_and_range(comparison.peak_ratios, ".2f"),
            median_and_range(comparison.above_baseline_ratios, ".2f"),
            median_and_range(comparison.time_ratios, ".2f"),
            median_and_range(comparison.mrr_differences, "+.3f"),
        ]
        for comparison in comparisons
    ]
    return Table(name=name, headings=headings, rows=rows)
