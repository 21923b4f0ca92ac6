"""A training of the command line: the trainer, and all that watches it, evaluates it, saves it and resumes it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from splade_bench.cli.cards import card_of
from splade_bench.cli.flags import TrainFlags
from splade_bench.cli.output import OutputFolder
from splade_bench.cli.progress import Progress
from splade_bench.cli.resuming import load_best_weights
from splade_bench.data.records import Corpus
from splade_bench.device.devices import synchronize
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, NotFiniteError, TrainingError, error_line
from splade_bench.evaluation.evaluator import evaluate
from splade_bench.measure.rss import PeakRss
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.weights import require_finite_weights
from splade_bench.training.checkpoints import Checkpoint
from splade_bench.training.collapse import CollapseError, CollapseGuard
from splade_bench.training.early_stopping import BestMetric
from splade_bench.training.run_state import checkpoint_bytes, model_bytes, resume_run
from splade_bench.training.saved_run import require_same_run
from splade_bench.training.saving import CheckpointSaver
from splade_bench.training.step_log import StepLog
from splade_bench.training.tensorboard import TensorBoardLog
from splade_bench.training.together import OneProcess
from splade_bench.training.trainer import Trainer
from splade_bench.training.validating import Validation
from splade_bench.training.validation_loss import BATCH_SIZE, validation_loss

logger = logging.getLogger(__name__)


class TrainingRun:
    """Trains ``encoder`` in place and keeps what it learned, however the run ends.

    Args:
        checkpoint: where to go on; None: at the beginning.

    Raises:
        ConfigError: a setting cannot be used, does not fit the checkpoint, or there is no room on the disk.
    """

    def __init__(
        self,
        command: TrainFlags,
        corpus: Corpus,
        encoder: SpladeEncoder,
        output: OutputFolder,
        checkpoint: Checkpoint | None,
        processes: OneProcess,
    ) -> None:
        self.command, self.corpus, self.encoder, self.output = command, corpus, encoder, output
        self.resumed_from = checkpoint
        self.model_is_saved = False
        self._metrics: Mapping[str, float | None] = {}
        self._evaluated_step: int | None = None
        self.wall_time_s = 0.0
        self.peak_rss = PeakRss()
        self.peak_rss.start()
        self.progress = Progress(peak_rss=self.peak_rss, memory_tracking=command.output.memory_tracking)
        self.trainer = Trainer(
            encoder,
            corpus.triples,
            command.config,
            observers=[self.progress, CollapseGuard(encoder.vocab_size, command.faults.on_collapse)],
            halve_on_oom=command.faults.on_oom == "halve",
            processes=processes,
        )
        if command.validating.is_on:
            _require_figure(corpus, command.validating.metric_for_best_model)
        if checkpoint:
            require_same_run(self.trainer, checkpoint.path, self._inputs)
        self._require_room()
        step = checkpoint.step if checkpoint else 0
        goes_on_here = checkpoint is not None and checkpoint.path.resolve().parent == output.path.resolve()
        self.log = StepLog(output.log, step if goes_on_here else 0)
        self.curves = TensorBoardLog(command.validating.log_dir, step) if command.validating.log_dir else None
        self.best: BestMetric | None = None
        self.validation: Validation | None = None
        self._observe()
        if checkpoint:
            resume_run(self.trainer, checkpoint.path, self._inputs)
            logger.info("going on from %s", checkpoint.path)
        processes.meet()  # the others have read what may be deleted or replaced now, and did not refuse it
        if checkpoint:
            self._leave_later_checkpoints(step)
        output.begin(overwrite=command.output.overwrite)  # nothing of an earlier run has changed before

    def train(self) -> None:
        """Run to the end, or to a stop. Whatever ends it, what is complete is then saved.

        Raises:
            TrainingError: the loss is not finite, the vectors collapsed.
        """
        start_s = time.perf_counter()
        try:
            with self.trainer.processes.on_rank_0(self.trainer.state):  # a stop ends the training at its first batch
                if self.validation and self.resumed_from and self.validation.evaluate_if_due(self.trainer.state):
                    self.saver.save(again=True)  # which evaluation is best may have changed
            if self.best:
                self.best.stop_if_exhausted(self.trainer.state)
            self.trainer.train()
            synchronize(self.encoder.device)
        except Exception as error:
            self._save_after(error)
            raise
        finally:
            self.wall_time_s = time.perf_counter() - start_s
            self.progress.close()

    def save(self) -> None:
        """Save the model, and the run where it can go on.

        Raises:
            NotFiniteError: a weight is not finite; the checkpoints before stay.
            TrainingError: the model cannot be written.
        """
        result = self.trainer.result()
        if result.global_step == 0:
            logger.warning("stopped before the first optimizer step: nothing is saved")
            return
        goes_on_later = result.interrupted or self.saver.saved or self.command.saving.resume_from_checkpoint
        if goes_on_later and not self.saver.is_saved:
            self.saver.save()
        if self.command.saving.load_best_model_at_end and self.best and self.best.best_step is not None:
            folders = [self.output.path, *([self.resumed_from.path.parent] if self.resumed_from else [])]
            if load_best_weights(self.encoder, self.best.best_step, folders):
                self._evaluated_step = None
        require_finite_weights(self.encoder)
        try:
            self.output.save_model(self.encoder, card=card_of(self))
        except OSError as error:
            self.log.event("fault", reason=error_line(error))
            raise TrainingError(
                f"{self.output.model}: cannot be saved: {error_line(error)}; make room or name another folder"
            ) from error
        self.model_is_saved = True

    def evaluate(self) -> Mapping[str, float | None]:
        """The figures of the model as it is now, unless it is known from the training. Signals are not looked at."""
        is_known = self._evaluated_step == self.trainer.state.global_step
        return self._metrics if is_known else self._figures(lambda: None)

    def close(self) -> None:
        """Close the logs."""
        self.log.close()
        if self.curves:
            self.curves.close()

    def record(self) -> dict[str, Any]:
        """What this run adds to ``run.json``."""
        result, peak = self.trainer.result(), self.peak_rss.read()
        best = self.output.checkpoints.path_of(self.best.best_step) if self.best and self.best.best_step else None
        return {
            "status": "interrupted" if result.interrupted else "ok",
            "stop_reason": result.stop_reason,
            "final_loss": result.final_loss,
            "losses": result.losses,
            "optimizer_steps": result.global_step,
            "queries_seen": result.queries_seen,
            "resumed_from_step": self.resumed_from.step if self.resumed_from else None,
            "checkpoint": str(self.saver.newest.path) if self.saver.newest else None,
            "checkpoints_saved": self.saver.saved,
            "checkpoints_failed": self.saver.failed,
            "checkpoint_time_s": self.saver.time_s,
            "best_metric": self.best.best if self.best else None,
            "best_checkpoint": str(best) if best and best.is_dir() else None,
            "wall_time_s": self.wall_time_s,
            "baseline_rss_bytes": peak.start_bytes,
            "peak_rss_bytes": peak.peak_bytes,
            "peak_rss_source": peak.source,
        }

    @property
    def _inputs(self) -> dict[str, str | None]:
        command = self.command
        start = None if command.start == "as-is" else f"{command.start} with {command.start_active_dims} active dims"
        data = {"data of --train-file and --val-file": self.corpus.sha256[:16]}
        return {"--model-name": command.model_name, **data, "--start": start}

    def _observe(self) -> None:
        """What comes first may end the run before what comes after it; what is saved last knows of all before it."""
        saving, validating = self.command.saving, self.command.validating
        observers: list[Any] = [self.log]
        if self.curves:
            observers.append(self.curves)
        if validating.is_on:
            self.best = BestMetric(
                validating.metric_for_best_model,
                validating.greater_is_better,
                validating.early_stopping_patience,
                validating.early_stopping_min_delta,
            )
            listeners = [log.on_evaluation for log in (self.log, self.curves, self.best) if log is not None]
            self.validation = Validation(
                self._evaluate,
                validating.interval(self.trainer.steps_per_epoch),
                listeners,
                device=self.encoder.device,
            )
            observers += [self.best, self.validation]
        self.saver = CheckpointSaver(
            self.trainer,
            self.output.checkpoints,
            self._inputs,
            every=saving.interval(self.trainer.steps_per_epoch),
            limit=saving.save_total_limit,
            best=self.best if saving.keeps_best else None,
            log=self.log,
        )
        self.trainer.observers += [*observers, self.saver]

    def _evaluate(self) -> Mapping[str, float | None]:
        """The figures at this step. A signal ends the evaluation at its next batch."""
        step = self.trainer.state.global_step
        try:
            self._metrics = self._figures(self.trainer.check_stop)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("optimizer step %d: not evaluated: %s", step, error_line(error))
            return {}
        except NotFiniteError as error:
            reason = "vectors of held-out texts are not finite; try a lower --learning-rate"
            raise NotFiniteError(f"optimizer step {step}: {reason}") from error
        self._evaluated_step = step
        logger.info("optimizer step %d: MRR@10 %.3f on held-out queries", step, self._metrics["mrr@10"])
        return self._metrics

    def _figures(self, on_batch: Callable[[], None]) -> Mapping[str, float | None]:
        assert self.corpus.test is not None
        config = self.command.config
        figures: dict[str, float | None] = {}
        figures |= evaluate(self.encoder, self.corpus.test, max_length=config.max_length, on_batch=on_batch)
        return figures | {
            "validation_loss": validation_loss(self.encoder, self.corpus.test_triples, config, on_batch=on_batch)
        }

    def _require_room(self) -> None:
        """Room for the model, and for the most checkpoints that are there at one time: one is made before one goes."""
        saving, step = self.command.saving, self.resumed_from.step if self.resumed_from else 0
        every = saving.interval(self.trainer.steps_per_epoch)
        made = (self.trainer.state.max_steps - step) // every if every else 0
        if made or saving.keeps_best:
            made += 1 + saving.keeps_best
        held = min(made, (saving.save_total_limit or made) + 1 + saving.keeps_best)
        there = len(self.output.checkpoints.all())  # of this run; or of one that is deleted before the first save
        needed = max(0, held - there)
        self.output.require_room(model_bytes(self.encoder) + needed * checkpoint_bytes(self.trainer))

    def _leave_later_checkpoints(self, step: int) -> None:
        """Delete what the run that is left made after ``step``: it would be taken for this run's."""
        later = [checkpoint.path.name for checkpoint in self.output.checkpoints.all() if checkpoint.step > step]
        if not later:
            return
        logger.info("leaving what comes after it: %s", ", ".join(later))
        try:
            self.output.checkpoints.remove_newer_than(step)
        except OSError as error:
            raise ConfigError(f"--resume-from-checkpoint: {error_line(error)}; delete {', '.join(later)}") from error

    def _save_after(self, error: Exception) -> None:
        """Save the last complete optimizer step of a run that failed, if it is worth going on from."""
        # The frames of the failed optimizer step hold its tensors.
        traceback.clear_frames(error.__traceback__)
        self.log.event("fault", reason=error_line(error))
        if isinstance(error, CollapseError) or not self.trainer.weights_are_complete or not self.trainer.losses:
            return
        try:
            self.saver.save()
        except Exception as second:  # the first error is what the user must know
            logger.warning("the last complete optimizer step cannot be saved: %s", error_line(second))

    def way_on(self, error: Exception) -> str:
        """What to do after a failure: the end of an error's line."""
        newest = self.saver.newest
        if newest is None or not newest.path.is_dir():
            return ""
        if isinstance(error, NotFiniteError):  # a run that goes on has the same settings
            return f". {newest.path} has the last good weights: start a new run with --model-name {newest.path}"
        return f". {newest.path} has the run: go on with --resume-from-checkpoint {newest.path}"


def _require_figure(corpus: Corpus, metric: str) -> None:
    """Refuse a metric that the evaluations of this corpus will not have."""
    if corpus.test is None:
        raise ConfigError("--eval-steps needs data to evaluate on; add --val-file")
    flag = f"--metric-for-best-model {metric}"
    if metric == "validation_loss" and len(corpus.test_triples) < BATCH_SIZE:
        raise ConfigError(f"{flag}: needs at least {BATCH_SIZE} validation records with negatives; use mrr@10")
    if metric.startswith("candidate_") and not corpus.test.candidates:
        raise ConfigError(f"{flag}: needs validation records with negatives; use mrr@10")
