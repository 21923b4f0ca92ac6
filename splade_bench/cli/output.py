"""The folder that a training writes to: its checkpoints, ``final_model``, ``run.json``, ``log.jsonl`` and pictures."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from splade_bench.errors import ConfigError, one_line
from splade_bench.files import (
    NO_FOLLOW,
    not_written,
    remove_debris,
    remove_whole,
    replaced_folder,
    sync_folder,
    write_whole_file,
)
from splade_bench.json_records import json_text
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.model_card import CARD_NAME
from splade_bench.model.sparse_encoder_files import write_sparse_encoder_files
from splade_bench.training.checkpoints import Checkpoints
from splade_bench.units import format_bytes

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

# Descriptors of the lock files that this process has locked, by device and inode. The end of the process unlocks them.
_LOCKED: dict[tuple[int, int], int] = {}


class OutputFolder:
    """Owns ``--output-dir``: nothing else writes to it. A link in it is never followed."""

    def __init__(self, path: Path) -> None:
        # A link to a folder on another disk is the folder. No link in it is followed.
        self.path = path = path.resolve() if path.is_symlink() else path
        self.model = path / "final_model"
        self.record = path / "run.json"
        self.log = path / "log.jsonl"
        self.timeline = path / "memory-timeline.svg"
        self.lock = path / ".lock"
        self.checkpoints = Checkpoints(path)

    def prepare(self, *, overwrite: bool, resuming: bool = False) -> None:
        """Make the folder and lock it for this process, before a training whose result could not be written.

        Args:
            overwrite: an earlier run may be replaced.
            resuming: an earlier run goes on.

        Raises:
            ConfigError: it cannot be written to, another training has locked it, or an earlier run may not be replaced.
        """
        if overwrite and resuming:
            raise ConfigError(
                "--overwrite deletes the run that --resume-from-checkpoint goes on with: remove one of them"
            )
        if not _is_text(self.path):
            raise ConfigError("--output-dir: its name is not valid UTF-8; name another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._require_files()
            _lock(self.lock)
            remove_debris(self.path)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ConfigError(f"--output-dir {self.path}: {not_written(self.path, error)}") from error
        with suppress(OSError):  # a folder above may be one that this user cannot read
            sync_folder(self.path.parent)
        if not overwrite and not resuming:
            self._refuse_earlier_run()

    def begin(self, *, overwrite: bool) -> None:
        """With ``overwrite``, delete the checkpoints and the log of the last run.

        Call it right before the training, when nothing else can refuse it. The last run's model and record stay until
        this run has its own.

        Raises:
            ConfigError: something cannot be deleted.
        """
        if not overwrite:
            return
        try:
            for checkpoint in self.checkpoints.all():
                remove_whole(checkpoint.path)
            self.log.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"--overwrite: {error.filename} cannot be deleted: {error.strerror}") from error

    def require_room(self, size_bytes: int) -> None:
        """Refuse a training whose files do not fit on the disk.

        Args:
            size_bytes: what the model and the most checkpoints at one time take.

        Raises:
            ConfigError: there is less room.
        """
        disk = shutil.disk_usage(self.path)
        if disk.total and disk.free < size_bytes:  # some file systems do not know their size
            raise ConfigError(
                f"--output-dir {self.path}: the model and its checkpoints need {format_bytes(size_bytes)}, and "
                f"{format_bytes(disk.free)} are free; add --save-total-limit 1 or --save-steps 0, free some room, or "
                "name a folder on another disk"
            )

    def save_model(self, encoder: SpladeEncoder, *, card: str = "") -> None:
        """Write the whole model, then put it in the place of an old one, be that a folder, a file or a link.

        Args:
            encoder: the model.
            card: text of its README.md; empty: none.

        Raises:
            OSError: it cannot be written. The old one is as it was.
        """
        self.path.mkdir(parents=True, exist_ok=True)  # it may have been deleted in the meantime
        with replaced_folder(self.model) as unfinished:
            encoder.save_pretrained(unfinished)
            write_sparse_encoder_files(unfinished, encoder)
            if card:
                (unfinished / CARD_NAME).write_text(card, encoding="utf-8")

    def write_card(self, card: str) -> None:
        """Replace the README.md of the saved model.

        Raises:
            OSError: it cannot be written. The old one is as it was.
        """
        write_whole_file(self.model / CARD_NAME, card)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``.

        Raises:
            OSError: it cannot be written. The old one is as it was.
        """
        write_whole_file(self.record, json_text(record) + "\n")

    def _require_files(self) -> None:
        """What is written in place must not be a link to another file, nor a folder that only fails after training."""
        for path in (self.lock, self.log, self.record, self.timeline):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise ConfigError(
                    f"--output-dir {self.path}: {path.name} in it is not a file; delete it, or name another folder"
                )

    def _refuse_earlier_run(self) -> None:
        if found := self.checkpoints.all():
            raise ConfigError(
                f"--output-dir {self.path}: already has the {found[-1].path.name} of an earlier run; add "
                "--resume-from-checkpoint to go on with it, add --overwrite to start anew, or name another folder"
            )
        if os.path.lexists(self.model):
            raise ConfigError(
                f"--output-dir {self.path}: already has a {self.model.name}; name another folder, or add --overwrite"
            )


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # Rust cannot write there
        return False
    return True


def _lock(path: Path) -> None:
    """Lock a file until this process ends, however it ends. A process may do so again.

    On Windows nothing is locked: a second training in the same folder is not noticed there.

    Raises:
        ConfigError: another process has locked it.
        OSError: it cannot be written.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
    try:
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        if identity not in _LOCKED and _is_locked_now(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            _LOCKED[identity], descriptor = descriptor, -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_locked_now(descriptor: int, path: Path) -> bool:
    """Try to lock an open file; False, with a warning, where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(_locked_by(os.pread(descriptor, 300, 0), path)) from error
    except OSError as error:
        logger.warning("%s: cannot be locked (%s): start only one training in this folder", path, error.strerror)
        return False
    return True


def _locked_by(holder: bytes, path: Path) -> str:
    """The message of a refusal; ``holder`` is empty for a moment after the file was locked."""
    process, _, host = one_line(holder.decode(errors="replace")).strip().partition(" ")
    where = f" on {host}" if host != socket.gethostname() else ""
    named = f" (process {process}{where})" if process else ""
    return f"--output-dir {path.parent}: another training{named} writes to it; wait, or name another folder"
