"""The checkpoints of a training: folders ``checkpoint-STEP`` that are complete or absent, and never loaded if damaged.

A checkpoint is built under a hidden name and synced. Its ``MANIFEST.json`` is written last: the size and SHA-256 of
every other file, and of itself. Then the folder is renamed. Files with hidden names are not part of it: file managers
and network file systems make them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import msgspec

from splade_bench.errors import DataError, one_line
from splade_bench.files import NO_FOLLOW, remove_whole, replaced_folder, write_whole_file

logger = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
FORMAT = 1

_FOLDER = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
_BUFFER_BYTES = 2**20
_MAX_MANIFEST_BYTES = 2**24
# Opening a pipe would wait for its writer.
_OPEN_FLAGS = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class _FileEntry:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Manifest:
    format: int
    step: int
    files: dict[str, _FileEntry]
    """By name relative to the checkpoint, with slashes."""

    def text(self) -> str:
        """The only text of this manifest, which contains its own SHA-256: any other byte is a damage."""
        body = asdict(self)
        sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return json.dumps(body | {"sha256": sha256}, sort_keys=True, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, which may be damaged: call :meth:`verify` before it is loaded."""

    path: Path
    step: int
    """Optimizer steps that were done."""

    @classmethod
    def at(cls, path: Path) -> Checkpoint:
        """The checkpoint in a folder of any name, such as a copy.

        Raises:
            DataError: there is none, or its manifest is damaged.
        """
        if not os.path.lexists(path / MANIFEST):
            raise DataError(f"{_shown(path)}: is not a checkpoint: there is not a {MANIFEST} in it")
        try:
            return cls(path, _read_manifest(path).step)
        except OSError as error:
            raise _unreadable(error, path) from error

    def verify(self) -> None:
        """Read every file and compare it with the manifest.

        Raises:
            DataError: a file is missing, cut, changed, not listed or not a regular file; the message names it.
        """
        try:
            self._compare(_read_manifest(self.path))
        except OSError as error:
            raise _unreadable(error, self.path) from error

    def _compare(self, manifest: _Manifest) -> None:
        if manifest.step != self.step:
            raise _damaged(self.path / MANIFEST, f"is the manifest of step {manifest.step}")
        found = {name for name in _files(self.path) if name != MANIFEST}
        # A name that leads out of the folder is never among the found ones, so nothing outside is opened.
        for name in sorted(manifest.files.keys() - found):
            raise _damaged(self.path / name, "is missing")
        for name in sorted(found - manifest.files.keys()):
            raise _damaged(self.path / name, f"is not listed in {MANIFEST}")
        for name, expected in sorted(manifest.files.items()):
            entry = _entry(self.path / name)
            if entry.size_bytes != expected.size_bytes:
                raise _damaged(self.path / name, f"has {entry.size_bytes} bytes instead of {expected.size_bytes}")
            if entry != expected:
                raise _damaged(self.path / name, f"was changed: its SHA-256 is not the one in {MANIFEST}")


class Checkpoints:
    """The checkpoints in an output folder. Only one process may change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._passed_over: set[Path] = set()

    def save(self, step: int, write: Callable[[Path], None], *, again: bool = False) -> Checkpoint:
        """Make the checkpoint of a step, complete and on the disk; nothing if there is a sound one already.

        A damaged one is replaced. If this fails, all earlier checkpoints are as they were.

        Args:
            step: optimizer steps that were done.
            write: fills the empty folder that it gets.
            again: replace a sound one too.

        Raises:
            OSError: it cannot be written.
        """

        def add_manifest(folder: Path) -> None:
            files = {name: _entry(folder / name) for name in _files(folder)}
            write_whole_file(folder / MANIFEST, _Manifest(FORMAT, step, files).text())

        checkpoint = Checkpoint(self.path_of(step), step)
        if again or not _is_sound(checkpoint):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replaced_folder(checkpoint.path, finish=add_manifest) as unfinished:
                write(unfinished)
        return checkpoint

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, if there is one."""
        return self.folder / f"checkpoint-{step}"

    def all(self) -> list[Checkpoint]:
        """All checkpoints, damaged ones too, by step. Links and files are not checkpoints.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.folder.is_dir():
            return []
        names = [(path, _FOLDER.fullmatch(path.name)) for path in self.folder.iterdir()]
        found = [Checkpoint(path, int(name[1])) for path, name in names if name and _is_real_folder(path)]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def get(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step, which may be damaged; None if there is none."""
        return next((checkpoint for checkpoint in self.all() if checkpoint.step == step), None)

    def newest_sound(self) -> Checkpoint | None:
        """The newest checkpoint that is not damaged, with a warning for each newer one; None if there is none."""
        for checkpoint in reversed(self.all()):
            try:
                checkpoint.verify()
            except DataError as error:
                logger.warning("%s; looking for an older one", error)
                self._passed_over.add(checkpoint.path)
            else:
                return checkpoint
        return None

    def rotate(self, *, limit: int | None, keep: Collection[int] = ()) -> None:
        """Delete the oldest checkpoints until ``limit`` are left; one that cannot be deleted stays, with a warning.

        Args:
            limit: None keeps all.
            keep: steps of checkpoints that stay, such as the one just saved, even if more than ``limit`` are left. The
                newest stays too.
        """
        if limit is None:
            return
        found = self.all()
        for checkpoint in [old for old in found[:-1] if old.step not in keep][: max(0, len(found) - limit)]:
            try:
                remove_whole(checkpoint.path)
            except OSError as error:
                logger.warning("%s: cannot be deleted: %s", _shown(checkpoint.path), error.strerror)

    def remove_newer_than(self, step: int) -> None:
        """Delete the checkpoints after ``step``: those of a run that another one takes up at that step.

        One that is damaged, or that :meth:`newest_sound` passed over, gets another name instead, with a warning. It may
        be sound: perhaps it could only not be read for a moment.

        Raises:
            OSError: one can neither be deleted nor renamed; its ``filename`` is the folder's.
        """
        for checkpoint in self.all():
            if checkpoint.step <= step:
                continue
            if checkpoint.path not in self._passed_over and _is_sound(checkpoint):
                remove_whole(checkpoint.path)
            else:
                kept = checkpoint.path.with_name(f"{checkpoint.path.name}.damaged-{uuid4().hex}")
                checkpoint.path.rename(kept)
                logger.warning(
                    "%s: is damaged or could not be read; it is kept as %s", _shown(checkpoint.path), kept.name
                )


def _is_sound(checkpoint: Checkpoint) -> bool:
    try:
        checkpoint.verify()
    except DataError:
        return False
    return _is_real_folder(checkpoint.path)


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    text = b"".join(_chunks(path, limit_bytes=_MAX_MANIFEST_BYTES))
    try:
        manifest = msgspec.json.decode(text, type=_Manifest)
        is_sound = manifest.text().encode() == text
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise _damaged(path, "is cut or was changed")
    if manifest.format != FORMAT:
        raise DataError(f"{_shown(path)}: has the format {manifest.format}; this version reads {FORMAT}: use another")
    return manifest


def _files(folder: Path, prefix: str = "") -> Iterator[str]:
    """The names of all files in a folder and its folders, relative to it; hidden ones are left out.

    Raises:
        DataError: something is a link, or neither a file nor a folder.
    """
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _files(path, f"{prefix}{path.name}/")
        elif stat.S_ISREG(mode):
            yield f"{prefix}{path.name}"
        else:
            raise _damaged(path, "is not a regular file")


def _entry(path: Path) -> _FileEntry:
    """Size and SHA-256 of a file."""
    sha256, size_bytes = hashlib.sha256(), 0
    for chunk in _chunks(path):
        sha256.update(chunk)
        size_bytes += len(chunk)
    return _FileEntry(size_bytes, sha256.hexdigest())


def _chunks(path: Path, *, limit_bytes: int | None = None) -> Iterator[bytes]:
    """The bytes of a regular file; a link is not followed.

    Raises:
        DataError: it is not a regular file, or is larger than ``limit_bytes``.
        OSError: it cannot be read; the error has the name of the file.
    """
    try:
        with os.fdopen(os.open(path, _OPEN_FLAGS), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _damaged(path, "is not a regular file")
            if limit_bytes is not None and status.st_size > limit_bytes:
                raise _damaged(path, f"is larger than {limit_bytes} bytes")
            while chunk := file.read(_BUFFER_BYTES):
                yield chunk
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _unreadable(error: OSError, checkpoint: Path) -> DataError:
    reason = "is missing" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
    return _damaged(Path(error.filename or checkpoint), reason)


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{_shown(path)}: {reason}; the checkpoint is damaged: use another one")


def _shown(path: Path) -> str:
    """A path that can be printed, whatever bytes it has."""
    return one_line(str(path).encode(errors="backslashreplace").decode())
