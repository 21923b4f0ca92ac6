"""Candidates with their plans, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from splade_bench.config import TrainConfig
from splade_bench.planner.candidates import Candidate
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.work import moved_bytes, product_flops

# Part of the budget that a plan must leave free, the larger of both, because plans have been too low by as much. A
# training's runtime also has its corpus and its tokenizer (measured: 3 to 52 MiB more than planned).
_FREE_SHARE = 0.03
_FREE_BYTES = 64 * 2**20
# Predicted times that differ by a smaller share are equal.
EQUAL_TIME = 0.01
# Cost of a moved byte in floating-point operations, where nothing can be timed: accelerators do 10 to 40 of them in
# float32 in the time of one byte.
_FLOPS_PER_BYTE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A candidate with its plan."""

    candidate: Candidate
    config: TrainConfig
    plan: MemoryPlan
    step_time_s: float | None
    """Predicted time of an optimizer step; None if the device is not in this machine."""

    @property
    def cost(self) -> float:
        """The order of trials: seconds, or floating-point operations."""
        if self.step_time_s is not None:
            return self.step_time_s
        return product_flops(self.plan.work) + _FLOPS_PER_BYTE * moved_bytes(self.plan.work)

    @property
    def fits(self) -> bool:
        return self.plan.fits is not False

    @property
    def peak_bytes(self) -> int:
        return self.plan.peak_bytes

    @property
    def varying_bytes(self) -> int:
        """The part of the peak that depends on the batch."""
        return max(1, self.plan.peak_bytes - self.plan.fixed_bytes)


# Plans a candidate within the budget without the part that is kept free.
Try: TypeAlias = Callable[[Candidate, TrainConfig], Trial]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Every candidate with a plan, in order of cost."""

    trials: Sequence[Trial]

    @property
    def chosen(self) -> Trial | None:
        """The fastest that fits; None if none fits.

        Of several equally fast ones the most exact, then the one with most changes that save time, then the smallest.
        """
        fitting = [trial for trial in self.trials if trial.fits]
        fastest = [trial for trial in fitting if trial.cost <= (1 + EQUAL_TIME) * fitting[0].cost]
        return min(fastest, key=_preference, default=None)

    @property
    def runner_ups(self) -> Sequence[Trial]:
        """The others that fit."""
        return [trial for trial in self.trials if trial.fits and trial is not self.chosen]

    @property
    def smallest(self) -> Trial:
        """The one with the lowest peak."""
        return min(self.trials, key=lambda trial: trial.peak_bytes)

    @property
    def frontier(self) -> Sequence[Trial]:
        """The trials for which no other is both faster and smaller, the fastest first."""
        frontier: list[Trial] = []
        for trial in self.trials:
            # A batch that was cut is another training, so not a point on the same curve.
            if trial.candidate.splits == 1 and all(trial.peak_bytes < faster.peak_bytes for faster in frontier):
                frontier.append(trial)
        return frontier


def _preference(trial: Trial) -> tuple[int, int, int]:
    """Of equally fast trials, the lowest is chosen."""
    saving_time = sum(change.saves_time for change in trial.candidate.changes)
    return len(trial.candidate.inexact), -saving_time, trial.peak_bytes


def kept_free_bytes(budget_bytes: int) -> int:
    """The part of a budget that a plan must leave free."""
    return max(_FREE_BYTES, int(_FREE_SHARE * budget_bytes))


class SearchEnded(Exception):  # noqa: N818 - not an error, as StopIteration
    """Raised by a :data:`Try` when there is no time for another plan."""
