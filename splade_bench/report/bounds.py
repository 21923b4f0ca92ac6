"""What the memory-efficient step promises against its peers: data, with the figure that decides each promise.

A ratio pairs medians of runs with the same workload, batch size, dropout, threads, machine and source tree: whoever
asks gives such runs alone. Where a peer has a size to choose, it stands at the one it was given all its rounds with,
its best in a scan.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splade_bench.grid.cell import OWN_TRAINER
from splade_bench.report.tables import (
    above_baseline_bytes,
    peak_rss_bytes,
    step_time_s,
)
from splade_bench.results.records import CellResult

Figure = Callable[[CellResult], float | None]
MODE, MINIMAL = "memory-efficient", "minimal-memory"
SPLADE_LOSS, CHUNKED, CACHED, ARTICLE = "SpladeLoss", "SpladePooling-chunked", "CachedSpladeLoss", "article"


def contender(result: CellResult) -> str:
    """Who trained: a memory mode of this package, or a peer."""
    return result.memory_mode if result.trainer == OWN_TRAINER else result.trainer


def step_time_per_query(result: CellResult) -> float | None:
    """Seconds per query of an optimizer step, for runs with different batch sizes."""
    return None if result.step_time_s is None else result.step_time_s / result.batch_size


def over_state(result: CellResult) -> float | None:
    """Peak RSS over weights, gradients, both moments and the runtime."""
    if not (result.peak_rss_bytes and result.baseline_rss_bytes and result.parameter_bytes):
        return None
    return result.peak_rss_bytes / (4 * result.parameter_bytes + result.baseline_rss_bytes)


def gemm_share(result: CellResult) -> float | None:
    """Rate of the step over that of one large product in the same process."""
    if not (result.step_flops and result.step_time_s and result.gemm_flops_per_s):
        return None
    return result.step_flops / result.step_time_s / result.gemm_flops_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """One promise. With ``peer`` the figure is a ratio to that peer's."""

    workload: str
    batch_size: int
    what: str
    figure: Figure
    limit: float
    mode: str = MODE
    peer: str | None = None
    peer_batch_size: int | None = None
    at_least: bool = False

    def measured(self, results: Sequence[CellResult]) -> float | None:
        """The figure over ``results``, of one dropout and taken alike; None if what it needs was not measured."""
        own = _median(self._chosen(results, self.mode, self.batch_size), self.figure)
        if self.peer is None or own is None:
            return own
        other = _median(self._chosen(results, self.peer, self.peer_batch_size or self.batch_size), self.figure)
        return own / other if other else None

    def least(self, results: Sequence[CellResult]) -> float | None:
        """What ``measured`` would be of a cached step that cannot be better on this machine.

        A time: all of its products at the machine's GEMM rate, and nothing else. A peak: the weights, gradients and
        moments in float32 beside the runtime, and nothing else. None for other figures.
        """
        measured = self.measured(results)
        own = self._chosen(results, self.mode, self.batch_size)
        if self.figure in (step_time_s, step_time_per_query):
            share = _median(own, gemm_share)
        elif self.figure is peak_rss_bytes and self.mode == MODE:
            excess = _median(own, over_state)
            share = 1 / excess if excess else None
        else:
            share = None
        return None if measured is None or share is None else measured * share

    def holds(self, measured: float) -> bool:
        return measured >= self.limit if self.at_least else measured <= self.limit

    def _chosen(self, results: Sequence[CellResult], name: str, batch_size: int) -> list[CellResult]:
        return at_its_best(
            [
                result
                for result in results
                if result.status == "ok"
                and (result.workload, result.batch_size, contender(result)) == (self.workload, batch_size, name)
            ]
        )


def at_its_best(results: Sequence[CellResult]) -> list[CellResult]:
    """Those with the size that was run most often: the scan's other sizes have one run each."""
    if not results:
        return []
    ((size, _),) = Counter(result.trainer_size for result in results).most_common(1)
    return [result for result in results if result.trainer_size == size]


def _median(results: Sequence[CellResult], figure: Figure) -> float | None:
    values = [value for result in results if (value := figure(result)) is not None]
    return statistics.median(values) if values else None


def _ratios(workload: str, batch_size: int, what: str, figure: Figure, limits: dict[str, float]) -> list[Bound]:
    return [
        Bound(workload=workload, batch_size=batch_size, what=what, figure=figure, limit=limit, peer=peer)
        for peer, limit in limits.items()
    ]


GIB = 2**30
BOUNDS: Sequence[Bound] = (
    Bound(workload="base-512", batch_size=8, what="peak RSS, GiB", figure=peak_rss_bytes, limit=2.4 * GIB),
    Bound(
        workload="base-512",
        batch_size=8,
        what="peak RSS ÷ (weights + gradients + moments + runtime)",
        figure=over_state,
        limit=1.15,
    ),
    Bound(
        workload="base-512",
        batch_size=8,
        what="time per query",
        figure=step_time_per_query,
        limit=0.6,
        peer=ARTICLE,
        peer_batch_size=4,
    ),
    Bound(
        workload="base-512", batch_size=8, what="share of the GEMM rate", figure=gemm_share, limit=0.7, at_least=True
    ),
    Bound(
        workload="base-512", batch_size=8, what="peak RSS, GiB", figure=peak_rss_bytes, limit=1.4 * GIB, mode=MINIMAL
    ),
    *_ratios("base-512", 2, "peak RSS", peak_rss_bytes, {CACHED: 0.8}),
    *_ratios("base-512", 2, "time", step_time_s, {SPLADE_LOSS: 0.6, CACHED: 0.6}),
    *_ratios("base-256-real", 4, "peak RSS", peak_rss_bytes, {CACHED: 0.8}),
    *_ratios("base-256-real", 4, "time", step_time_s, {SPLADE_LOSS: 0.65, ARTICLE: 0.25}),
    *_ratios("mini-256", 8, "peak RSS", peak_rss_bytes, {SPLADE_LOSS: 0.2, CACHED: 0.7}),
    *_ratios("mini-256", 8, "time", step_time_s, {SPLADE_LOSS: 0.45, CACHED: 0.45}),
    *_ratios("mini-256-real", 8, "peak RSS", peak_rss_bytes, {SPLADE_LOSS: 0.33, CACHED: 0.5}),
    *_ratios("mini-256-real", 8, "time", step_time_s, {SPLADE_LOSS: 0.6, CACHED: 0.5}),
    *_ratios("bert-tiny-128", 4, "peak RSS above baseline", above_baseline_bytes, {SPLADE_LOSS: 0.25}),
    *_ratios("bert-tiny-128", 4, "time", step_time_s, {SPLADE_LOSS: 0.25, CACHED: 0.25}),
)
