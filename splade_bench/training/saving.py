"""When checkpoints are saved, and what happens if one cannot be."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import TrainingError, error_line
from splade_bench.training.checkpoints import Checkpoint, Checkpoints
from splade_bench.training.early_stopping import BestMetric
from splade_bench.training.run_state import save_run
from splade_bench.training.state import StepLoss, TrainObserver, TrainState
from splade_bench.training.trainer import Trainer

logger = logging.getLogger(__name__)


class EventLog(Protocol):
    """Where a run tells what it did, such as :class:`splade_bench.training.step_log.StepLog`."""

    def event(self, name: str, **fields: object) -> None: ...


class CheckpointSaver(TrainObserver):
    """Observes a run and saves it: every so many optimizer steps, at each best evaluation, and when it is told to.

    A checkpoint that cannot be saved is a warning: the training goes on, and the checkpoints before it stay.

    Args:
        inputs: flag -> what it names, for everything that a run that goes on must have in common with this one.
        every: optimizer steps from one checkpoint to the next; 0: none.
        limit: checkpoints that are kept; None: all.
        best: whose best evaluations are saved and kept; None: none.
        log: is told of each checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        inputs: Mapping[str, str | None] = MappingProxyType({}),
        *,
        every: int,
        limit: int | None = None,
        best: BestMetric | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.newest: Checkpoint | None = None
        """The last one that this run saved."""
        self.saved = self.failed = 0
        self.time_s = 0.0
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._inputs = inputs
        self._every = every
        self._limit = limit
        self._best = best
        self._log = log

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        is_best = self._best is not None and self._best.best_step == state.global_step
        if is_best or (self._every and state.global_step % self._every == 0):
            self.save()

    def save(self, *, again: bool = False) -> bool:
        """Save the last complete optimizer step; False if it cannot be written.

        Args:
            again: also if it is saved, because more is known now than then.

        Raises:
            TrainingError: the optimizer's step failed midway, so there is nothing complete to save.
            NotFiniteError: its weights or moments are not finite: the checkpoints before it stay.
        """
        if not self._trainer.weights_are_complete:
            raise TrainingError("the optimizer's step failed midway: go on from the checkpoint before")
        start_s, step = time.perf_counter(), self._trainer.state.global_step
        try:
            self.newest = self._checkpoints.save(
                step, lambda folder: save_run(self._trainer, folder, self._inputs), again=again
            )
            best_step = self._best.best_step if self._best else None
            self._checkpoints.rotate(limit=self._limit, keep={step} if best_step is None else {step, best_step})
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            self.failed += 1
            advice = "make room, or give --save-total-limit 1"
            logger.warning("checkpoint-%d cannot be saved: %s; %s", step, error_line(error), advice)
            self._tell(step=step, saved=False, reason=error_line(error))
            return False
        finally:
            self.time_s += time.perf_counter() - start_s
        self.saved += 1
        self._tell(step=step, saved=True)
        return True

    @property
    def is_saved(self) -> bool:
        """Whether the run as it is now is in a checkpoint."""
        return self.newest is not None and self.newest.step == self._trainer.state.global_step

    def _tell(self, **fields: object) -> None:
        if self._log is not None:
            self._log.event("checkpoint", **fields)
