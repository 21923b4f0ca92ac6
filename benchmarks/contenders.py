"""The cells in which this package is compared with its peers: what is scanned, and what then runs in rounds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pytest

from splade_bench.grid.cell import ARTICLE_TRAINER, PEER_MODE, Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.results.records import CellResult
from splade_bench.units import whole_mib

Measure: TypeAlias = Callable[[Cell], CellResult]
NEEDS_PEERS = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers: pip install 'splade-bench[peers]'",
)
# Sizes with at most this multiple of the shortest time are fast; the best of them has the smallest peak.
AS_FAST_WITHIN = 1.05
CHUNK_SIZES = (32, 128)
# The peers whose memory fit gets. Limits are about the first two, so a quick comparison has only these.
BUDGETS_OF = ("SpladeLoss", "CachedSpladeLoss", ARTICLE_TRAINER)
# Budgets from the peak of the memory-efficient mode to that of SpladeLoss.
FRONTIER_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A workload and the runs on it."""

    workload: str
    batch_size: int
    timed_steps: int
    mini_batch_sizes: Sequence[int] = ()
    """Of CachedSpladeLoss, to scan; empty: without sentence-transformers' losses."""
    article_batch_size: int | None = None
    """For the article's algorithm, if it does not fit at batch_size."""
    minimal_memory: bool = False

    @property
    def name(self) -> str:
        return f"{self.workload}-b{self.batch_size}"

    def cell(self, **changes: object) -> Cell:
        cell = Cell(
            workload=self.workload,
            device="cpu",
            batch_size=self.batch_size,
            gradient_accumulation_steps=1,
            memory_mode="memory-efficient",
            max_steps=WORKLOADS[self.workload].untimed_steps + self.timed_steps,
        )
        return replace(cell, **changes)  # type: ignore[arg-type]

    def peer(self, trainer: str, size: int | None = None) -> Cell:
        # A peer's mode says only how its batches are padded; the article's algorithm pads them to the full width.
        return self.cell(trainer=trainer, trainer_size=size, memory_mode=PEER_MODE)

    def scans(self, *, quick: bool) -> list[list[Cell]]:
        """For each peer its cells, one for each size."""
        article = replace(self.peer(ARTICLE_TRAINER), batch_size=self.article_batch_size or self.batch_size)
        if not self.mini_batch_sizes:
            return [[article]]
        sizes = self.mini_batch_sizes[:1] if quick else self.mini_batch_sizes
        chunked = [] if quick else [[self.peer("SpladePooling-chunked", size) for size in CHUNK_SIZES]]
        return [
            [article],
            [self.peer("SpladeLoss")],
            *chunked,
            [self.peer("CachedSpladeLoss", size) for size in sizes],
        ]


COMPARISONS = (
    Comparison(workload="bert-tiny-128", batch_size=4, timed_steps=4, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="mini-256-real", batch_size=8, timed_steps=2, mini_batch_sizes=(1, 2, 4, 8)),
    Comparison(workload="base-256-real", batch_size=4, timed_steps=1, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="mini-256", batch_size=8, timed_steps=1, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="base-512", batch_size=2, timed_steps=1, mini_batch_sizes=(1, 2)),
    Comparison(workload="base-512", batch_size=8, timed_steps=1, article_batch_size=4, minimal_memory=True),
)


def in_rounds(cells: Sequence[Cell], rounds: int) -> Iterator[Cell]:
    """All cells in each round, in an order that alternates: a machine that gets slower slows them alike."""
    for number in range(1, rounds + 1):
        for cell in cells if number % 2 else cells[::-1]:
            yield replace(cell, round=number)


def contenders(comparison: Comparison, measure: Measure, *, quick: bool) -> list[Cell]:
    """The cells to compare: modes of this package, what it fits into the memory of each peer, and the peers."""
    modes = ["memory-efficient", *(["minimal-memory"] if comparison.minimal_memory else [])]
    own = [comparison.cell(memory_mode=mode) for mode in modes]
    peers = [best_size([measure(cell) for cell in cells]) for cells in comparison.scans(quick=quick)]
    peaks = [peak_of(peer) for peer in peers if peer.trainer in (BUDGETS_OF[:2] if quick else BUDGETS_OF)]
    if not quick:
        largest_bytes = next((peak_of(peer) for peer in peers if peer.trainer == "SpladeLoss"), max(peaks))
        for budget_bytes in budgets_between(peak_of(measure(own[0])), largest_bytes):
            measure(comparison.cell(memory_budget_bytes=budget_bytes))
    budgets = dict.fromkeys(whole_mib(peak_bytes) for peak_bytes in peaks)
    fits = [comparison.cell(memory_budget_bytes=budget_bytes) for budget_bytes in budgets]
    return [*own, *fits, *(replace(peer.cell, round=0) for peer in peers)]


def best_size(scanned: Sequence[CellResult]) -> CellResult:
    """The run of the size with the smallest peak among the fast ones."""
    times_s = [result.step_time_s for result in scanned if result.step_time_s is not None]
    assert times_s, [result.error for result in scanned]
    limit_s = AS_FAST_WITHIN * min(times_s)
    fast = [result for result in scanned if result.step_time_s is not None and result.step_time_s <= limit_s]
    return min(fast, key=peak_of)


def peak_of(result: CellResult) -> int:
    assert result.peak_rss_bytes is not None, (result.cell_id, result.error)
    return result.peak_rss_bytes


def budgets_between(smallest_bytes: int, largest_bytes: int) -> list[int]:
    """Budgets at equal ratios from the smallest to the largest, without the latter, which is a peer's own."""
    ratio = largest_bytes / smallest_bytes
    shares = [number / (FRONTIER_POINTS - 1) for number in range(FRONTIER_POINTS - 1)]
    return [whole_mib(round(smallest_bytes * ratio**share)) for share in shares]
