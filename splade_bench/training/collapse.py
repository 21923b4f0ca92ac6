"""Vectors that became all zero or all dense: such a model finds nothing, or is not sparse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from splade_bench.errors import TrainingError
from splade_bench.training.state import StepLoss, TrainObserver, TrainState

logger = logging.getLogger(__name__)

# Fewer active entries than one for every second vector: at least half of the vectors are all zero.
ZERO_ACTIVE_DIMS = 0.5
DENSE_SHARE = 0.99
# Vectors with a smaller share of active entries have been sparse.
SPARSE_SHARE = 0.5
COLLAPSED_STEPS = 10
# A head with random weights starts dense, and the regularizers need their warm-up to change that: by default a third
# of the run. So vectors that have never been sparse are given until the middle of the run, and at least so long.
DENSE_START_STEPS = 500
_DENSE_START_SHARE = 0.5


class CollapseError(TrainingError):
    """The vectors have become all zero or all dense."""


@dataclass(slots=True)
class _Side:
    """How many optimizer steps in a row the vectors of the queries, or of the documents, are useless."""

    zero_steps: int = 0
    dense_steps: int = 0
    was_sparse: bool = False

    def update(self, active_dims: float, vocab_size: int) -> None:
        self.zero_steps = self.zero_steps + 1 if active_dims < ZERO_ACTIVE_DIMS else 0
        self.dense_steps = self.dense_steps + 1 if active_dims >= DENSE_SHARE * vocab_size else 0
        self.was_sparse = self.was_sparse or active_dims < SPARSE_SHARE * vocab_size


class CollapseGuard(TrainObserver):
    """An observer that stops a run, or warns once, when the vectors of queries or documents collapse.

    * All zero: fewer than 0.5 active entries per vector for 10 optimizer steps in a row.
    * All dense: at least 99 % of the entries active for 10 steps in a row, after less than 50 % have been. Vectors that
      have never been sparse must be dense for 500 steps and half of the run.

    Args:
        vocab_size: entries of a vector.
        action: raise an error, or warn once for each collapse.
    """

    def __init__(self, vocab_size: int, action: Literal["stop", "warn"] = "stop") -> None:
        self._vocab_size = vocab_size
        self._action = action
        self._sides = {"query": _Side(), "document": _Side()}

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        """Look at the vectors of this step.

        Raises:
            CollapseError: they have collapsed, and the action is to stop.
        """
        for name, active_dims in (("query", loss.query_active_dims), ("document", loss.document_active_dims)):
            side = self._sides[name]
            side.update(active_dims, self._vocab_size)
            start_limit = max(DENSE_START_STEPS, round(_DENSE_START_SHARE * state.max_steps))
            zero_over = side.zero_steps - COLLAPSED_STEPS
            dense_over = side.dense_steps - (COLLAPSED_STEPS if side.was_sparse else start_limit)
            if zero_over >= 0:
                self._report(_all_zero(name, state.global_step), is_new=zero_over == 0)
            elif dense_over >= 0:
                share = active_dims / self._vocab_size
                self._report(_all_dense(name, state.global_step, share), is_new=dense_over == 0)

    def state_dict(self) -> dict[str, Any]:
        """The counts of both kinds of vectors."""
        return {name: asdict(side) for name, side in self._sides.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sides = {name: _Side(**counts) for name, counts in state.items()}

    def _report(self, message: str, *, is_new: bool) -> None:
        if self._action == "stop":
            raise CollapseError(f"{message}; --on-collapse warn goes on all the same")
        if is_new:
            logger.warning("%s", message)


def _all_zero(name: str, step: int) -> str:
    return (
        f"optimizer step {step}: the {name} vectors have been all zero for {COLLAPSED_STEPS} steps, so nothing can be "
        f"found with them; try a lower --{name}-regularizer-weight or a lower --learning-rate"
    )


def _all_dense(name: str, step: int, share: float) -> str:
    return (
        f"optimizer step {step}: {share:.1%} of the entries of the {name} vectors are above 0, so they are not sparse; "
        f"try a higher --{name}-regularizer-weight or a lower --learning-rate, and check the weights of --model-name"
    )
