"""The fastest way of computing a batch that fits a budget.

A plan takes seconds, so not every candidate gets one: the size of mini-batches and each technique alone are planned,
what they do together is estimated from that, and the most promising are planned in their turn. Whatever comes out has
been planned itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.planner.candidates import Candidate, Candidates
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.work import Work, moved_bytes, product_flops

# Kept free of the budget, the larger of both: plans have been so much too low. The runtime of a training has its corpus
# and its tokenizer too (measured: 3 to 52 MiB more than planned).
_FREE_SHARE = 0.03
_FREE_BYTES = 64 * 2**20
# Predicted times that differ by less are taken to be the same.
_SAME = 0.01
# The next larger mini-batches that are looked at must save so much time, or there is no look at larger ones.
_WORTH = 0.02
# Sizes of mini-batches double; the first look at them takes every second.
_STRIDE = 2
# Combinations that are planned because of what has been estimated of them.
_ESTIMATED_PLANS = 3
# What a byte moved is taken to cost where nothing can be timed, in floating-point operations: accelerators do 10 to 40
# of them in float32 in the time of one byte.
_FLOPS_PER_BYTE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A candidate with its plan."""

    candidate: Candidate
    config: TrainConfig
    plan: MemoryPlan
    work: Work
    step_time_s: float | None
    """Predicted for an optimizer step; None where there is nothing to time on."""

    @property
    def cost(self) -> float:
        """What trials are ordered by: seconds, or work."""
        if self.step_time_s is not None:
            return self.step_time_s
        return product_flops(self.work) + _FLOPS_PER_BYTE * moved_bytes(self.work)

    @property
    def fits(self) -> bool:
        return self.plan.fits is not False


# Plans a candidate within the budget, less what is kept free.
Try = Callable[[Candidate, TrainConfig], Trial]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Every candidate that was planned, in order of cost."""

    trials: Sequence[Trial]

    @property
    def chosen(self) -> Trial | None:
        """The fastest that fits, and of those that are as fast one that is exact and small; None if nothing does."""
        fitting = [trial for trial in self.trials if trial.fits]
        as_fast = [trial for trial in fitting if trial.cost <= (1 + _SAME) * fitting[0].cost]
        return min(as_fast, key=lambda trial: (len(trial.candidate.inexact), trial.plan.peak_bytes), default=None)

    @property
    def runner_ups(self) -> Sequence[Trial]:
        """The others that fit."""
        return [trial for trial in self.trials if trial.fits and trial is not self.chosen]

    @property
    def smallest(self) -> Trial:
        """The one with the lowest peak."""
        return min(self.trials, key=lambda trial: trial.plan.peak_bytes)

    @property
    def frontier(self) -> Sequence[Trial]:
        """Those than which none is both faster and smaller, the fastest first."""
        found: list[Trial] = []
        for trial in self.trials:
            # A batch that was cut is another training: it is no point on the same curve.
            if trial.candidate.splits == 1 and all(trial.plan.peak_bytes < one.plan.peak_bytes for one in found):
                found.append(trial)
        return found


def kept_free_bytes(budget_bytes: int) -> int:
    """How much of a budget a plan has to leave."""
    return max(_FREE_BYTES, int(_FREE_SHARE * budget_bytes))


def fit(candidates: Candidates, plan_one: Try) -> Fit:
    """Plan few of the candidates, the fastest that fits among them."""
    search = _Search(candidates, plan_one)
    search.run()
    return Fit(trials=sorted(search.trials.values(), key=lambda trial: trial.cost))


class _Search:
    def __init__(self, candidates: Candidates, plan_one: Try) -> None:
        self._candidates = candidates
        self._plan_one = plan_one
        self.trials: dict[Candidate, Trial] = {}

    def run(self) -> None:
        sizes = self._candidates.sizes
        self._survey(self._try(Candidate(sizes[0])))
        for technique in tuple(self._candidates.techniques):
            try:
                self._try(Candidate(sizes[0], (technique,)))
            except ConfigError:  # the model or this machine cannot have it
                self._candidates.techniques.remove(technique)
        self._try_estimated()
        if best := self._best():
            self._grow(best)
        else:
            self._cut()

    def _try(self, candidate: Candidate) -> Trial:
        if candidate not in self.trials:
            self.trials[candidate] = self._plan_one(candidate, self._candidates.config(candidate))
        return self.trials[candidate]

    def _best(self) -> Trial | None:
        return min((trial for trial in self.trials.values() if trial.fits), key=lambda trial: trial.cost, default=None)

    def _survey(self, trial: Trial) -> None:
        """Larger mini-batches in large steps, as long as they pay; and the whole batch, of which nothing is done twice.

        Those that do not fit alone may do so with a technique, and how fast they are is to be known for that.
        """
        sizes = self._candidates.sizes
        self._try(Candidate(sizes[-1]))
        for size in sizes[_STRIDE::_STRIDE]:
            larger = self._try(Candidate(size))
            if larger.cost > (1 - _WORTH) * trial.cost:
                break
            trial = larger

    def _grow(self, trial: Trial) -> None:
        """Larger mini-batches in small steps, as long as they fit and pay."""
        sizes = self._candidates.sizes
        for size in sizes[sizes.index(trial.candidate.texts) + 1 :]:
            larger = self._try(Candidate(size, trial.candidate.techniques))
            if not larger.fits or larger.cost > (1 - _WORTH) * trial.cost:
                break
            trial = larger

    def _try_estimated(self) -> None:
        """Combinations that look faster than what fits so far; and the one that looks smallest."""
        estimates = [
            self._estimate(Candidate(size, chosen))
            for size in self._candidates.sizes
            for chosen in self._candidates.combinations()
        ]
        smallest = min(estimates, key=lambda estimate: estimate.peak_bytes)
        budget_bytes = self.trials[Candidate(self._candidates.sizes[0])].plan.budget_bytes
        left = _ESTIMATED_PLANS
        for estimate in sorted(estimates, key=lambda estimate: estimate.cost):
            best = self._best()
            if left == 0 or (best and estimate.cost >= best.cost):
                break
            if estimate.candidate in self.trials or (budget_bytes is not None and estimate.peak_bytes > budget_bytes):
                continue
            self._try(estimate.candidate)
            left -= 1
        self._try(smallest.candidate)

    def _estimate(self, candidate: Candidate) -> _Estimate:
        """What is there whatever the batch changes by a sum, what comes and goes by a product."""
        sizes = self._candidates.sizes
        start = self.trials[Candidate(sizes[0])]
        passing, cost = self._of_size(candidate.texts)
        standing = _standing_bytes(start)
        for technique in candidate.techniques:
            alone = self.trials[Candidate(sizes[0], (technique,))]
            standing += _standing_bytes(alone) - _standing_bytes(start)
            passing *= _passing_bytes(alone) / _passing_bytes(start)
            cost *= alone.cost / start.cost
        return _Estimate(candidate, standing + passing, cost)

    def _of_size(self, texts: int | None) -> tuple[float, float]:
        """Passing bytes and cost of mini-batches of so many texts, between those that have been planned."""
        sizes = self._candidates.sizes
        planned = [sizes.index(size) for size in sizes if Candidate(size) in self.trials]
        place = sizes.index(texts)
        below = self.trials[Candidate(sizes[max(one for one in planned if one <= place)])]
        above = self.trials[Candidate(sizes[min(one for one in planned if one >= place)])]
        low, high, size = (one or 1 for one in (below.candidate.texts, above.candidate.texts, texts))
        share = (size - low) / max(1, high - low)
        passing = _passing_bytes(below) + share * (_passing_bytes(above) - _passing_bytes(below))
        # Mini-batches are as many as they are small, and what they cost beyond their texts is by mini-batch.
        saved = (1 / low - 1 / size) / (1 / low - 1 / high) if high > low else 0.0
        return passing, below.cost + saved * (above.cost - below.cost)

    def _cut(self) -> None:
        """Fewer queries at a time, where that is allowed: only now, for it trains on fewer in-batch negatives."""
        smallest = min(self.trials.values(), key=lambda trial: trial.plan.peak_bytes).candidate
        for splits in self._candidates.splits():
            if self._try(Candidate(smallest.texts, smallest.techniques, splits)).fits:
                break


@dataclass(frozen=True, slots=True)
class _Estimate:
    candidate: Candidate
    peak_bytes: float
    cost: float


def _standing_bytes(trial: Trial) -> int:
    return sum(trial.plan.standing_bytes.values())


def _passing_bytes(trial: Trial) -> int:
    return max(1, trial.plan.peak_bytes - _standing_bytes(trial))
