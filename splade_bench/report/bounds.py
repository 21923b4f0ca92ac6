"""The limits that the memory-efficient mode must keep against its peers, as data, with the figure that decides each.

A ratio is one of medians. The caller passes runs that are comparable: the same dropout, threads, machine and source
tree. A peer whose size can be chosen has the size that it ran most rounds with, which was the best in a scan. The runs
of fit at a peer's memory are those whose budget is the peak that this size had in the scan.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER
from splade_bench.report.readers import group_by, in_gib, succeeded, values_of
from splade_bench.results.figures import Reader, added_bytes, peak_rss_bytes, step_time_s
from splade_bench.results.records import CellResult
from splade_bench.units import whole_mib

MODE, MINIMAL = "memory-efficient", "minimal-memory"
# Not a mode: cells with a memory budget.
FIT = "fit"
SPLADE_LOSS, CACHED = "SpladeLoss", "CachedSpladeLoss"
peak_rss_gib = in_gib(peak_rss_bytes)


def contender(result: CellResult) -> str:
    """Who trained: a memory mode of this package, its fit for a budget, or a peer."""
    if result.memory_budget_bytes is not None:
        return FIT
    return result.memory_mode if result.trainer == OWN_TRAINER else result.trainer


def step_time_per_query(result: CellResult) -> float | None:
    """Seconds per query of an optimizer step, to compare different batch sizes."""
    return None if result.step_time_s is None else result.step_time_s / result.batch_size


def last_loss(result: CellResult) -> float | None:
    """Loss of the last optimizer step."""
    return result.losses[-1] if result.losses else None


def over_state(result: CellResult) -> float | None:
    """Peak RSS divided by the sum of weights, gradients, both moments and runtime memory."""
    if not (result.peak_rss_bytes and result.baseline_rss_bytes and result.parameter_bytes):
        return None
    return result.peak_rss_bytes / (4 * result.parameter_bytes + result.baseline_rss_bytes)


def over_budget(result: CellResult) -> float | None:
    """Peak RSS divided by the memory budget."""
    if not (result.peak_rss_bytes and result.memory_budget_bytes):
        return None
    return result.peak_rss_bytes / result.memory_budget_bytes


def direct_gemm_share(result: CellResult) -> float | None:
    """As :func:`gemm_share`, of the operations that a step without any recomputation needs."""
    if not (result.direct_step_flops and result.step_time_s and result.gemm_flops_per_s):
        return None
    return result.direct_step_flops / result.step_time_s / result.gemm_flops_per_s


def gemm_share(result: CellResult) -> float | None:
    """Floating-point rate of the step divided by that of one large product in the same process."""
    if not (result.step_flops and result.step_time_s and result.gemm_flops_per_s):
        return None
    return result.step_flops / result.step_time_s / result.gemm_flops_per_s


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit. With ``peer``, it is a limit of the ratio to that peer's figure."""

    workload: str
    batch_size: int
    what: str
    """The figure in words, with its unit."""
    figure: Reader
    limit: float
    _: KW_ONLY
    mode: str = MODE
    peer: str | None = None
    peer_batch_size: int | None = None
    at_least: bool = False
    memory_of: str | None = None
    """The peer whose peak was the budget of fit; None: runs with any budget."""
    over_runs: Callable[[Sequence[float]], float] = statistics.median

    @property
    def who(self) -> str:
        """The mode; of fit also the peer whose memory it had."""
        return f"{self.mode} at the memory of {self.memory_of}" if self.memory_of else self.mode

    @property
    def title(self) -> str:
        """The figure, and the peer that it is compared with."""
        if self.peer is None:
            return self.what
        return f"{self.what} ÷ {self.peer}" + (f" at batch {self.peer_batch_size}" if self.peer_batch_size else "")

    @property
    def limit_text(self) -> str:
        """``≤ 0.80``."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:.2f}"

    def holds(self, measured: float) -> bool:
        """Whether a figure keeps the limit."""
        return measured >= self.limit if self.at_least else measured <= self.limit

    def measured(self, results: Sequence[CellResult]) -> float | None:
        """The figure over ``results``, which are comparable; None if a run that it needs is missing."""
        own = self._own(results, self.figure)
        if self.peer is None or own is None:
            return own
        other = self._over(self._runs(results, self.peer, self.peer_batch_size), self.figure)
        return own / other if other else None

    def least(self, results: Sequence[CellResult]) -> float | None:
        """The smallest figure that a step in float32 can reach on this machine; None if not known.

        The step is a cached one, or that of fit, which may keep the graphs of the whole batch.

        For a time: all products at the machine's GEMM rate and nothing else. For a peak: weights, gradients, moments
        and runtime memory and nothing else.
        """
        share = None
        if self.figure in (step_time_s, step_time_per_query):
            share = self._own(results, direct_gemm_share if self.mode == FIT else gemm_share)
        elif self.figure in (peak_rss_bytes, peak_rss_gib) and self.mode == MODE:
            excess = self._own(results, over_state)
            share = 1 / excess if excess else None
        measured = self.measured(results)
        return None if measured is None or share is None else measured * share

    def _own(self, results: Sequence[CellResult], reader: Reader) -> float | None:
        """Over the runs of the limit itself."""
        runs = self._runs(results, self.mode)
        if self.memory_of:
            peaks = (run.peak_rss_bytes for run in self._runs(results, self.memory_of) if run.round == 0)
            budgets = [whole_mib(peak_bytes) for peak_bytes in peaks if peak_bytes]
            runs = [run for run in runs if run.memory_budget_bytes in budgets]
        return self._over(runs, reader)

    def _runs(self, results: Sequence[CellResult], name: str, batch_size: int | None = None) -> list[CellResult]:
        """The runs of a contender at a batch size, by default that of the limit itself."""
        key = self.workload, batch_size or self.batch_size, name
        runs = [run for run in succeeded(results) if (run.workload, run.batch_size, contender(run)) == key]
        return most_run_size(runs)

    def _over(self, runs: Sequence[CellResult], reader: Reader) -> float | None:
        values = values_of(runs, reader)
        return self.over_runs(values) if values else None


def most_run_size(results: Sequence[CellResult]) -> list[CellResult]:
    """The runs with the size that most runs have: the other sizes of a scan have one run each."""
    return max(group_by(results, lambda result: result.trainer_size).values(), key=len, default=[])


def _ratios(
    workload: str, batch_size: int, what: str, figure: Reader, limits: dict[str, float], *, memory_of: str | None = None
) -> list[Bound]:
    mode = FIT if memory_of else MODE
    return [
        Bound(workload, batch_size, what, figure, limit, mode=mode, peer=peer, memory_of=memory_of)
        for peer, limit in limits.items()
    ]


def _at_equal_memory(workload: str, batch_size: int, limits: dict[str, float], *, gemm_limit: float) -> list[Bound]:
    """The limits of fit: those given, at the memory of SpladeLoss; one at that of CachedSpladeLoss; and the budget."""
    direct = "share of the GEMM rate, of a direct step"
    return [
        *_ratios(workload, batch_size, "time", step_time_s, limits, memory_of=SPLADE_LOSS),
        *_ratios(workload, batch_size, "time", step_time_s, {CACHED: 0.6}, memory_of=CACHED),
        Bound(
            workload,
            batch_size,
            direct,
            direct_gemm_share,
            gemm_limit,
            mode=FIT,
            memory_of=SPLADE_LOSS,
            at_least=True,
        ),
        Bound(workload, batch_size, "largest peak RSS ÷ budget", over_budget, 1.0, mode=FIT, over_runs=max),
    ]


BOUNDS: Sequence[Bound] = (
    Bound("base-512", 8, "peak RSS, GiB", peak_rss_gib, 2.4),
    Bound("base-512", 8, "peak RSS ÷ (weights + gradients + moments + runtime)", over_state, 1.15),
    Bound("base-512", 8, "time per query", step_time_per_query, 0.6, peer=ARTICLE_TRAINER, peer_batch_size=4),
    Bound("base-512", 8, "share of the GEMM rate", gemm_share, 0.7, at_least=True),
    Bound("base-512", 8, "peak RSS, GiB", peak_rss_gib, 1.4, mode=MINIMAL),
    *_ratios("base-512", 2, "peak RSS", peak_rss_bytes, {CACHED: 0.8}),
    *_ratios("base-512", 2, "time", step_time_s, {SPLADE_LOSS: 0.6, CACHED: 0.6}),
    *_ratios("base-256-real", 4, "peak RSS", peak_rss_bytes, {CACHED: 0.8}),
    *_ratios("base-256-real", 4, "time", step_time_s, {SPLADE_LOSS: 0.65, ARTICLE_TRAINER: 0.25}),
    *_ratios("mini-256", 8, "peak RSS", peak_rss_bytes, {SPLADE_LOSS: 0.2, CACHED: 0.7}),
    *_ratios("mini-256", 8, "time", step_time_s, {SPLADE_LOSS: 0.45, CACHED: 0.45}),
    *_ratios("mini-256-real", 8, "peak RSS", peak_rss_bytes, {SPLADE_LOSS: 0.33, CACHED: 0.5}),
    *_ratios("mini-256-real", 8, "time", step_time_s, {SPLADE_LOSS: 0.6, CACHED: 0.5}),
    *_ratios("bert-tiny-128", 4, "added memory", added_bytes, {SPLADE_LOSS: 0.25}),
    *_ratios("bert-tiny-128", 4, "time", step_time_s, {SPLADE_LOSS: 0.25, CACHED: 0.25}),
    *_at_equal_memory("base-512", 2, {SPLADE_LOSS: 0.65, CACHED: 0.55}, gemm_limit=0.75),
    *_at_equal_memory("base-256-real", 4, {SPLADE_LOSS: 0.4, ARTICLE_TRAINER: 0.25}, gemm_limit=0.75),
    *_at_equal_memory("mini-256", 8, {SPLADE_LOSS: 0.4, CACHED: 0.35}, gemm_limit=0.65),
    *_at_equal_memory("mini-256-real", 8, {SPLADE_LOSS: 0.25}, gemm_limit=0.65),
)
