"""Evaluation while a training runs, without an effect on what the training computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from splade_bench.model.rng import capture_rng, restored_rng
from splade_bench.training.state import StepLoss, TrainObserver, TrainState

EvaluationListener = Callable[[TrainState, Mapping[str, float | None]], None]
"""Gets the figures of an evaluation, by name; None for one that could not be computed."""


class Validation(TrainObserver):
    """An observer that evaluates after each ``every`` optimizer steps, and after the last step.

    Args:
        evaluate: the figures of the model as it is now. What it raises ends the training's loop.
        every: optimizer steps from one evaluation to the next, at least 1.
        listeners: called with each evaluation, in this order.
        device: where the training draws its random numbers.
    """

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float | None]],
        every: int,
        listeners: Sequence[EvaluationListener],
        *,
        device: torch.device,
    ) -> None:
        self._evaluate = evaluate
        self._every = every
        self._listeners = listeners
        self._device = device
        self._last_step = 0

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        self.evaluate_if_due(state)

    def evaluate_if_due(self, state: TrainState) -> bool:
        """Evaluate, and return True, if this step is one that is evaluated, and has not been.

        Call it before a resumed training too: a signal may have ended the run in the middle of an evaluation.
        """
        step = state.global_step
        is_due = step % self._every == 0 or step == state.max_steps
        if not is_due or step <= self._last_step:
            return False
        with restored_rng(capture_rng(self._device)):
            metrics = self._evaluate()
        self._last_step = step
        for listener in self._listeners:
            listener(state, metrics)
        return True

    def state_dict(self) -> dict[str, int]:
        """The last evaluated step."""
        return {"last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._last_step = state["last_step"]
