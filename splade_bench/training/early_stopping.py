"""The best evaluation of a run, and the end of a run that does not get better."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from splade_bench.errors import ConfigError
from splade_bench.training.state import TrainObserver, TrainState

logger = logging.getLogger(__name__)


def greater_is_better_by_default(metric: str) -> bool:
    """False for a loss, active dims and FLOPS, where less is better; True for all other figures."""
    return not metric.endswith(("loss", "_active_dims", "_flops"))


class BestMetric(TrainObserver):
    """Follows one figure of the evaluations, and asks the run to stop when it has not improved for long enough.

    The best evaluation is that with the best figure, however small the difference. Early stopping wants more: an
    improvement by more than ``min_delta`` over the figure that last counted as one. An evaluation whose figure is not
    finite has not improved. One that lacks the figure does not count: the instrument failed, not the training.

    Args:
        metric: the figure's name.
        greater_is_better: None: by the name, see :func:`greater_is_better_by_default`.
        patience: evaluations in a row without an improvement that end the run; None: it never ends.
        min_delta: see above; at least 0.
    """

    def __init__(
        self,
        metric: str,
        greater_is_better: bool | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
    ) -> None:
        self.metric = metric
        self.greater_is_better = (
            greater_is_better_by_default(metric) if greater_is_better is None else greater_is_better
        )
        self.patience = patience
        self.min_delta = min_delta
        self.best: float | None = None
        """The figure of the best evaluation; None before the first one that has a finite figure."""
        self.best_step: int | None = None
        self.evaluations_without_improvement = 0
        self._reference: float | None = None
        """The figure that early stopping compares with."""

    def on_evaluation(self, state: TrainState, metrics: Mapping[str, float | None]) -> None:
        """Compare the evaluation at this step with the earlier ones; an :data:`EvaluationListener`."""
        value = metrics.get(self.metric)
        if value is None:
            logger.warning(
                "optimizer step %d: the evaluation has no %s, so it is skipped", state.global_step, self.metric
            )
            return
        if not math.isfinite(value):
            logger.warning("optimizer step %d: %s is %s, which is never best", state.global_step, self.metric, value)
        elif self._is_better(value, self.best, by_more_than=0.0):
            self.best, self.best_step = value, state.global_step
        if math.isfinite(value) and self._is_better(value, self._reference, by_more_than=self.min_delta):
            self._reference = value
            self.evaluations_without_improvement = 0
            return
        self.evaluations_without_improvement += 1
        self.stop_if_exhausted(state)

    def stop_if_exhausted(self, state: TrainState) -> None:
        """Ask for the end of the run where the patience is exhausted, also of one that goes on after it ended so."""
        if self.patience is None or self.evaluations_without_improvement < self.patience:
            return
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = "" if self.best is None else f"; the best is {self.best:.4g}, at step {self.best_step}"
        evaluations = f"{self.evaluations_without_improvement} evaluations in a row"
        state.stop_requested = True
        state.stop_reason = f"early stopping: {self.metric} has not improved{by} in {evaluations}{best}"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "best": self.best,
            "best_step": self.best_step,
            "evaluations_without_improvement": self.evaluations_without_improvement,
            "reference": self._reference,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of an earlier run.

        Raises:
            ConfigError: that run followed another figure, or in the other direction.
        """
        for name, flag in (("metric", "--metric-for-best-model"), ("greater_is_better", "--greater-is-better")):
            earlier, now = state[name], getattr(self, name)
            if earlier != now:
                raise ConfigError(f"{flag} {now}: the run of the checkpoint has {earlier}; give that, or start anew")
        self.best, self.best_step = state["best"], state["best_step"]
        self.evaluations_without_improvement = state["evaluations_without_improvement"]
        self._reference = state["reference"]

    def _is_better(self, value: float, than: float | None, *, by_more_than: float) -> bool:
        if than is None:
            return True
        return (value - than if self.greater_is_better else than - value) > by_more_than
