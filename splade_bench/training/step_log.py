"""``log.jsonl``: one line of strict JSON for each optimizer step, evaluation, checkpoint and fault of a run."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from splade_bench.errors import ConfigError
from splade_bench.files import NO_FOLLOW, sync_descriptor
from splade_bench.json_records import encode_line
from splade_bench.training.state import StepLoss, TrainObserver, TrainState

logger = logging.getLogger(__name__)


class StepLog(TrainObserver):
    """Writes the log of a run, an observer of its training. After a failed write it warns once; the training goes on.

    A line has ``event``, ``step`` (optimizer steps that are done) and ``time_s`` (seconds since 1970). The event
    ``step`` also has the mean loss and its terms, ``learning_rate``, ``gradient_norm``, ``queries_seen`` and ``epoch``.
    A number that is not finite is null.

    Nothing is written, and nothing of an earlier log is cut off, before the first line.

    Args:
        path: the file. Its folder exists.
        resume_step: the step that the run goes on from. Later lines, and a torn last line, are cut off, so that the
            log reads as that of one run. 0: the log starts empty.

    Raises:
        ConfigError: ``path`` is a symbolic link, a folder or a device.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        self._path = path
        self._step = self._resume_step = resume_step
        self._warned = self._is_closed = False
        self._file: FileIO | None = None
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(f"{path}: is not a regular file, so the log cannot be written there; remove it")

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        self._step = state.global_step
        self._write(
            {"event": "step", "step": self._step}
            | loss.by_name()
            | {name: getattr(state, name) for name in ("learning_rate", "gradient_norm", "queries_seen", "epoch")}
        )

    def on_evaluation(self, state: TrainState, metrics: Mapping[str, float | None]) -> None:
        """Write the figures of an evaluation at this step."""
        self._step = state.global_step
        self.event("evaluation", metrics=dict(metrics))

    def event(self, name: str, **fields: Any) -> None:
        """Write a line about anything else, such as a checkpoint, and wait until it is on the disk.

        Args:
            name: the line's ``event``.
            fields: more fields, of JSON types. ``step`` is that of the last optimizer step, unless it is given here.
        """
        self._write({"event": name, "step": self._step} | fields, sync=True)

    def close(self) -> None:
        """Close the file; what is logged later is dropped."""
        self._is_closed = True
        if self._file is not None:
            self._file.close()

    def _write(self, record: Mapping[str, Any], *, sync: bool = False) -> None:
        if self._is_closed:
            return
        line = encode_line({**record, "time_s": round(time.time(), 3)}).encode(errors="backslashreplace") + b"\n"
        try:
            self._file = file = self._file or self._opened()
            start = file.seek(0, os.SEEK_END)
            if file.write(line) != len(line):  # the disk became full in the middle of the line
                file.truncate(start)
                self._warn("the disk is full")
            elif sync:
                sync_descriptor(file.fileno())
        except OSError as error:
            self._warn(error)

    def _opened(self) -> FileIO:
        """The file without the lines of later steps."""
        file = FileIO(self._path, "ab+", opener=_open_no_link)
        try:
            # A truncation is atomic and needs no room, so a crash or a full disk here loses no line.
            file.truncate(_end_of_run(file, self._resume_step) if self._resume_step else 0)
        except BaseException:
            file.close()
            raise
        return file

    def _warn(self, reason: object) -> None:
        """Say once that lines are missing. Each later line is tried all the same: room may be made."""
        if not self._warned:
            logger.warning("%s: cannot be written, so lines are missing: %s; the training goes on", self._path, reason)
        self._warned = True


def _open_no_link(name: str, flags: int) -> int:
    """Open a file that only its owner may write, and that cannot block; a link is an OSError."""
    descriptor = os.open(name, flags | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is not a regular file")
    return descriptor


def _end_of_run(file: FileIO, step: int) -> int:
    """The bytes before the first line of a later step, without a torn line at their end."""
    file.seek(0)
    lines = BufferedReader(file)
    end = read = 0
    for line in lines:
        read += len(line)
        try:
            is_later = json.loads(line)["step"] > step
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # damaged: cut off if no good line follows
        if is_later:
            break
        if line.endswith(b"\n"):
            end = read
    lines.detach()  # else it would close the file
    return end
