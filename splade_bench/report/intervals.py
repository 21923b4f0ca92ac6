"""Student's confidence interval of a mean over a few seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t at 95 % by degrees of freedom, for the two-sided interval of 90 %.
_T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}
_T_95_BEYOND = 1.812


@dataclass(frozen=True, slots=True)
class Interval:
    """The range that contains the mean with a probability of 90 %."""

    mean: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """``mean (low to high)``."""
        return f"{format(self.mean, form)} ({format(self.low, form)} to {format(self.high, form)})"


def interval_90(values: Sequence[float]) -> Interval:
    """The two-sided 90 % interval of the mean, by Student's t. Needs at least two values."""
    margin = _T_95.get(len(values) - 1, _T_95_BEYOND) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return Interval(mean, mean - margin, mean + margin)
