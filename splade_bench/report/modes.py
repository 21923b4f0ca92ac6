"""Pairs of runs that differ in their memory mode or batch size only, and what the pairs say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.report.formatting import MISSING, median_and_range
from splade_bench.report.markdown import escape
from splade_bench.report.page import Table, table_of
from splade_bench.report.readers import group_by, succeeded
from splade_bench.results.conditions import pair_key, setup_key
from splade_bench.results.figures import Reader, added_bytes, mrr_at_10, peak_bytes, wall_time_s
from splade_bench.results.records import CellResult

REFERENCE_MODE = "standard"
Pair = tuple[CellResult, CellResult]


@dataclass(frozen=True, slots=True)
class ModeComparison:
    """A mode against the reference mode, over the grid points that were measured in both."""

    memory_mode: str
    pairs: Sequence[Pair]

    def ratio(self, reader: Reader) -> str:
        """Median and range of a figure, as a multiple of the reference mode's."""
        return median_and_range(ratios(self.pairs, reader), ".2f")

    @property
    def mrr_difference(self) -> str:
        """Median and range of the difference in MRR@10."""
        return median_and_range(differences(self.pairs, mrr_at_10), "+.3f")

    @property
    def in_words(self) -> str:
        """The medians and ranges as a sentence in Markdown."""
        quality = "" if self.mrr_difference == MISSING else f", with {self.mrr_difference} MRR@10"
        return (
            f"**{escape(self.memory_mode)}** takes {self.ratio(added_bytes)} times the added memory and "
            f"{self.ratio(wall_time_s)} times the time of `{REFERENCE_MODE}`{quality} "
            f"(matched pairs: {len(self.pairs)})."
        )


def modes_of(results: Sequence[CellResult]) -> list[str]:
    """The modes of the results: named modes in the order of MEMORY_MODES, then the others."""
    modes = dict.fromkeys(result.memory_mode for result in results)
    return [*(mode for mode in MEMORY_MODES if mode in modes), *(mode for mode in modes if mode not in MEMORY_MODES)]


def matched_pairs(results: Sequence[CellResult], mode: str, reference: str = REFERENCE_MODE) -> list[Pair]:
    """Successful runs of ``mode``, each with the run of ``reference`` that equals it otherwise."""
    chosen = [result for result in succeeded(results) if result.memory_mode in (mode, reference)]
    keyed = [((pair_key(result), result.round), result) for result in chosen]
    others = {key: result for key, result in keyed if result.memory_mode == reference}
    return [(result, others[key]) for key, result in keyed if result.memory_mode == mode and key in others]


def accumulated_pairs(results: Sequence[CellResult]) -> list[Pair]:
    """Pairs of the same effective batch, mode and seed: the first has the smaller batch, accumulated more often."""
    groups = group_by(
        succeeded(results),
        lambda result: (
            result.batch_size * result.gradient_accumulation_steps,
            *(result.workload, result.device, result.memory_mode, result.seed, result.round),
            setup_key(result),
        ),
    )
    by_size = [sorted(group, key=lambda result: result.batch_size) for group in groups.values()]
    return [pair for group in by_size for pair in combinations(group, 2) if pair[0].batch_size < pair[1].batch_size]


def ratios(pairs: Sequence[Pair], reader: Reader) -> list[float]:
    """The figure of the first of each pair divided by that of the second, where both were measured."""
    both = [(reader(result), reader(other)) for result, other in pairs]
    return [value / other for value, other in both if value is not None and other]


def differences(pairs: Sequence[Pair], reader: Reader) -> list[float]:
    """The figure of the first of each pair minus that of the second, where both were measured."""
    both = [(reader(result), reader(other)) for result, other in pairs]
    return [value - other for value, other in both if value is not None and other is not None]


def compare_modes(results: Sequence[CellResult]) -> list[ModeComparison]:
    """Each mode that has pairs with the reference mode."""
    comparisons = [ModeComparison(mode, matched_pairs(results, mode)) for mode in modes_of(results)]
    return [comparison for comparison in comparisons if comparison.pairs]


def comparison_table(comparisons: Sequence[ModeComparison], *, name: str) -> Table:
    """A row per mode: medians and ranges as multiples of the reference mode's."""
    return table_of(
        name,
        comparisons,
        [
            ("mode", lambda comparison: comparison.memory_mode),
            ("pairs", lambda comparison: str(len(comparison.pairs))),
            (f"peak memory ÷ {REFERENCE_MODE}", lambda comparison: comparison.ratio(peak_bytes)),
            (f"added memory ÷ {REFERENCE_MODE}", lambda comparison: comparison.ratio(added_bytes)),
            (f"time ÷ {REFERENCE_MODE}", lambda comparison: comparison.ratio(wall_time_s)),
            (f"MRR@10 − {REFERENCE_MODE}", lambda comparison: comparison.mrr_difference),
        ],
    )
