"""Curves of a run for TensorBoard, if it is installed: the folder of --log-dir."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splade_bench.errors import ConfigError, error_line
from splade_bench.files import not_written
from splade_bench.training.state import StepLoss, TrainObserver, TrainState

logger = logging.getLogger(__name__)


class TensorBoardLog(TrainObserver):
    """Writes scalars of each optimizer step and evaluation, an observer of a training.

    The names are those of the Hugging Face Trainer: ``train/loss``, ``train/learning_rate``, ``train/grad_norm``,
    ``eval/mrr@10``. After a failed write it warns once and writes nothing more; the training goes on. It writes without
    a thread, so that a failure shows here.

    Args:
        log_dir: the folder; it is made.
        resume_step: the step that the run goes on from. TensorBoard hides what earlier files there have of later steps.

    Raises:
        ConfigError: tensorboard cannot be imported, or the folder cannot be written to.
    """

    def __init__(self, log_dir: Path, resume_step: int = 0) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except Exception as error:  # not installed, or beside a protobuf that it cannot use: another class in each
            advice = "pip install tensorboard, or remove --log-dir"
            raise ConfigError(f"--log-dir: tensorboard cannot be imported: {error_line(error)}; {advice}") from error
        self._event, self._summary = Event, Summary
        self._writer: Any = None
        self._warned = False
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter((log_dir / name).open("xb"))
            self._write(file_version="brain.Event:2")
            self._write(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        except OSError as error:
            raise ConfigError(f"--log-dir {log_dir}: {not_written(log_dir, error)}") from error

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        scalars = loss.by_name() | {
            "learning_rate": state.learning_rate,
            "grad_norm": state.gradient_norm,
            "epoch": state.epoch,
        }
        self._add("train", state.global_step, scalars)

    def on_evaluation(self, state: TrainState, metrics: Mapping[str, float | None]) -> None:
        """Write the figures of an evaluation at this step."""
        self._add("eval", state.global_step, metrics)

    def close(self) -> None:
        """Close the file; what is logged later is dropped."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._warn(error)

    def _add(self, group: str, step: int, scalars: Mapping[str, float | None]) -> None:
        if self._writer is None:
            return
        values = [
            self._summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in scalars.items()
            if value is not None
        ]
        try:
            self._write(step=step, summary=self._summary(value=values))
        except OSError as error:
            self._warn(error)
            self.close()

    def _write(self, **fields: Any) -> None:
        """One record, at once on its way to the disk."""
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logger.warning("--log-dir: cannot be written, so curves are missing: %s; the training goes on", error)
        self._warned = True
