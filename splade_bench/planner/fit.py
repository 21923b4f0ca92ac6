"""The fastest way of computing a batch that fits a budget.

A plan takes seconds, so only some candidates get one. First come those that need most memory and least time: all graphs
kept, and with each change that saves time. If these do not fit, then as many graphs as fit,
and each change alone. The effect of several changes is estimated from these plans, and the most promising combinations
are planned too. Every result of the search has a plan of its own. The search may be ended at any time: what comes first
pays most.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from splade_bench.errors import ConfigError
from splade_bench.planner.candidates import Candidate, Candidates, Change
from splade_bench.planner.trials import EQUAL_TIME, Fit, SearchEnded, Trial, Try

# The search for larger mini-batches goes on while the next size saves at least this share of the time.
_WORTHWHILE = 0.02
# Sizes of mini-batches double; the first search takes every second one.
_STRIDE = 2
# Attempts to find the most activation memory that fits.
_MEMORY_ATTEMPTS = 3
_MIB = 2**20
# Combinations that are planned because their estimates are good.
_ESTIMATED_PLANS = 3


def fit(candidates: Candidates, plan_one: Try, *, first: Candidate | None = None, whole_frontier: bool = True) -> Fit:
    """Plan some of the candidates, and ``first`` before them. If ``plan_one`` ends the search, what it has counts.

    Without ``whole_frontier``, candidates with less memory are planned only if the fastest ones do not fit.

    Raises:
        SearchEnded: there was no time for a single plan.
        ConfigError: the first plan cannot be made.
    """
    search = _Search(candidates, plan_one, first)
    try:
        search.run(whole_frontier=whole_frontier)
    except SearchEnded:
        if not search.trials:
            raise
    return Fit(trials=sorted(search.trials.values(), key=lambda trial: trial.cost))


class _Search:
    def __init__(self, candidates: Candidates, plan_one: Try, first: Candidate | None) -> None:
        self._candidates = candidates
        self._sizes = [*candidates.sizes]
        self._plan_one = plan_one
        self._first = first
        self.trials: dict[Candidate, Trial] = {}
        self._impossible: set[Candidate] = set()

    def run(self, *, whole_frontier: bool) -> None:
        if self._first:
            self._try(self._first)
        self._try(Candidate(self._sizes[0]))
        everything_fits = self._try_everything_kept()
        if everything_fits and not whole_frontier and all(change.exact for change in self._candidates.changes):
            return
        self._try_sizes()
        if not everything_fits:
            self._try_kept_graphs()
        for change in tuple(self._candidates.changes):
            if self._try(Candidate(self._sizes[0], (change,))) is None:
                self._candidates.changes.remove(change)
        self._try_combinations()
        fastest = self._fastest()
        if fastest is None:
            self._cut()
            return
        if fastest.candidate.changes and fastest.candidate.activation_memory is None:
            self._try_kept_graphs(fastest.candidate.changes)
        if fastest.candidate.texts in self._sizes:
            self._try_larger(fastest)
        self._try_faster_changes()

    def _try(self, candidate: Candidate) -> Trial | None:
        """The plan of a candidate; None if the model, this machine or a named setting rules it out."""
        if candidate not in self.trials and candidate not in self._impossible:
            try:
                self.trials[candidate] = self._plan_one(candidate, self._candidates.config(candidate))
            except ConfigError:
                if not self.trials:
                    raise  # nothing can be planned
                self._impossible.add(candidate)
        return self.trials.get(candidate)

    def _fastest(self) -> Trial | None:
        return min((trial for trial in self.trials.values() if trial.fits), key=lambda trial: trial.cost, default=None)

    def _try_everything_kept(self) -> bool:
        """All graphs kept, in mini-batches of their default size. Whether all that may be faster still fits.

        Predicted times of other sizes differ by less than predictions err: measured, this size is fast.
        """
        if not self._candidates.may_keep_graphs:
            return False
        trial = self._try(Candidate(None, activation_memory="all"))
        return trial is not None and trial.fits and self._try_faster_changes()

    def _try_sizes(self) -> None:
        """The smallest mini-batches, the whole batch, and larger mini-batches in large steps while they save time.

        A size that does not fit alone may fit with a change, so its time is needed too.
        """
        trial = self._try(Candidate(self._sizes[0]))
        while self._try(Candidate(self._sizes[-1])) is None and len(self._sizes) > 1:
            self._sizes.pop()  # such mini-batches keep more than the named activation memory
        for size in self._sizes[_STRIDE::_STRIDE]:
            larger = self._try(Candidate(size))
            if larger is None or trial is None or larger.cost > (1 - _WORTHWHILE) * trial.cost:
                break
            trial = larger

    def _try_kept_graphs(self, changes: tuple[Change, ...] = ()) -> None:
        """For each size of mini-batches that fits, as many graphs as fit, while larger mini-batches save time."""
        best: Trial | None = None
        for size in self._sizes:
            kept = self._with_most_graphs(Candidate(size, changes))
            if kept is None or not kept.fits:
                break
            if best and kept.cost > (1 - _WORTHWHILE) * best.cost:
                break
            best = kept

    def _with_most_graphs(self, candidate: Candidate) -> Trial | None:
        """The plan of a candidate with as many graphs kept as fit; without any if even that does not fit."""
        everything = None
        if self._candidates.may_keep_graphs:
            everything = self._try(replace(candidate, activation_memory="all"))
        if everything and everything.fits:
            return everything
        trial = self._try(candidate)
        return self._keep_some_graphs(trial) if everything and trial and trial.fits else trial

    def _keep_some_graphs(self, trial: Trial) -> Trial:
        """The same with as many graphs kept as fit; ``trial`` itself if that is not faster."""
        budget_bytes = trial.plan.budget_bytes
        assert budget_bytes is not None
        # The memory counts from zero, but the plan already has the activations of one mini-batch.
        limit_bytes = budget_bytes - trial.peak_bytes + trial.plan.by_category.get("activations", 0)
        for _ in range(_MEMORY_ATTEMPTS):
            if limit_bytes < _MIB:
                break
            kept = self._try(replace(trial.candidate, activation_memory=f"{limit_bytes // _MIB}MiB"))
            if kept is None:  # less than one mini-batch takes
                break
            if kept.fits:
                return kept if kept.cost < trial.cost else trial
            limit_bytes -= max(_MIB, kept.peak_bytes - budget_bytes)
        return trial

    def _try_faster_changes(self) -> bool:
        """Add to the fastest each change that can save time. Whether all that do so fit."""
        trial, all_fit = self._fastest(), True
        for change in self._candidates.changes:
            if trial is None or change in trial.candidate.changes or not self._may_be_faster(change):
                continue
            changes = self._candidates.ordered({*trial.candidate.changes, change})
            if changes is None:
                continue
            candidate = replace(trial.candidate, changes=changes)
            faster = self._try(candidate)
            # Predictions differ by less than what these changes save, so an equal time is enough.
            if faster and not faster.fits and faster.cost <= (1 + EQUAL_TIME) * trial.cost:
                all_fit, faster = False, self._try_as_kept(candidate)
            if faster and faster.fits and faster.cost <= (1 + EQUAL_TIME) * trial.cost:
                trial = faster
        return all_fit

    def _may_be_faster(self, change: Change) -> bool:
        """Whether it is meant to be, or was alone."""
        start = self.trials[Candidate(self._sizes[0])]
        alone = self.trials.get(Candidate(self._sizes[0], (change,)))
        return change.saves_time or (alone is not None and alone.cost <= (1 - EQUAL_TIME) * start.cost)

    def _try_as_kept(self, candidate: Candidate) -> Trial | None:
        """The plan of a candidate; if it keeps graphs, then as many as fit in its place."""
        if candidate.activation_memory is None:
            return self._try(candidate)
        return self._with_most_graphs(replace(candidate, activation_memory=None))

    def _try_larger(self, trial: Trial) -> None:
        """Larger mini-batches with the same changes in small steps, while they fit and save time."""
        for size in self._sizes[self._sizes.index(trial.candidate.texts) + 1 :]:
            larger = self._try_as_kept(replace(trial.candidate, texts=size))
            if larger is None or not larger.fits or larger.cost > (1 - _WORTHWHILE) * trial.cost:
                break
            trial = larger

    def _try_combinations(self) -> None:
        """The combinations with estimates that fit and are faster than every trial; and that with the lowest peak."""
        combined = [Candidate(*choice) for choice in product(self._sizes, self._candidates.combinations())]
        estimates = {candidate: self._estimate(candidate) for candidate in combined}
        budget_bytes = self.trials[Candidate(self._sizes[0])].plan.budget_bytes
        left = _ESTIMATED_PLANS
        for candidate, (peak_bytes, cost) in sorted(estimates.items(), key=lambda item: item[1][1]):
            fastest = self._fastest()
            if left == 0 or (fastest and cost >= fastest.cost):
                break
            if candidate not in self.trials and (budget_bytes is None or peak_bytes <= budget_bytes):
                self._try(candidate)
                left -= 1
        self._try(min(estimates, key=lambda candidate: estimates[candidate][0]))

    def _estimate(self, candidate: Candidate) -> tuple[float, float]:
        """Peak bytes and cost: a change adds to the fixed bytes, and multiplies the varying bytes and the cost."""
        start = self.trials[Candidate(self._sizes[0])]
        fixed_bytes = start.plan.fixed_bytes
        varying_bytes, cost = self._interpolate(candidate.texts)
        for change in candidate.changes:
            alone = self.trials[Candidate(self._sizes[0], (change,))]
            fixed_bytes += alone.plan.fixed_bytes - start.plan.fixed_bytes
            varying_bytes *= alone.varying_bytes / start.varying_bytes
            cost *= alone.cost / start.cost
        return fixed_bytes + varying_bytes, cost

    def _interpolate(self, texts: int | None) -> tuple[float, float]:
        """Varying bytes and cost of mini-batches of ``texts`` texts, from the nearest planned sizes."""
        index = self._sizes.index(texts)
        planned = [number for number, size in enumerate(self._sizes) if Candidate(size) in self.trials]
        below = self.trials[Candidate(self._sizes[max(other for other in planned if other <= index)])]
        above = self.trials[Candidate(self._sizes[min(other for other in planned if other >= index)])]
        low, high, size = (count or 1 for count in (below.candidate.texts, above.candidate.texts, texts))
        share = (size - low) / max(1, high - low)
        varying_bytes = below.varying_bytes + share * (above.varying_bytes - below.varying_bytes)
        # Beyond the cost of its texts, each mini-batch has a cost of its own, and their number is inverse to the size.
        saved = (1 / low - 1 / size) / (1 / low - 1 / high) if high > low else 0.0
        return varying_bytes, below.cost + saved * (above.cost - below.cost)

    def _cut(self) -> None:
        """Fewer queries per batch, if that is allowed. It comes last, because in-batch negatives get fewer too."""
        smallest = min(self.trials.values(), key=lambda trial: trial.peak_bytes).candidate
        for splits in self._candidates.splits():
            trial = self._try(replace(smallest, splits=splits))
            if trial and trial.fits:
                break
