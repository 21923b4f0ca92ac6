"""Files and folders that survive a crash: written whole or not at all, or appended to line by line, and synced.

Several processes may append to one file. A writer waits for the others, and reads the file to see how it ends.

What is being written has a hidden name beside its own, ``.NAME.unfinished-RANDOM``, until it is renamed. What is being
deleted gets the name ``.NAME.removed-RANDOM`` first. A killed process leaves such names only: :func:`remove_debris`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, TextIO
from uuid import uuid4

from splade_bench.errors import DataError
from splade_bench.special_files import is_special

if sys.platform != "win32":
    import fcntl

# 0 where the system cannot refuse to open a link.
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)

# On disk by convention (Filesystem Hierarchy Standard); /tmp is often a file system in memory.
_DISK_FOLDER = Path("/var/tmp")
_DEBRIS = re.compile(r"\.(.+)\.(unfinished|removed|replaced)-[0-9a-f]{32}", re.DOTALL)


def write_whole_file(path: Path, text: str) -> None:
    """Write a file whole and wait until it is on the disk, or leave the old one as it is.

    A link in its place is replaced itself; a device or a pipe is written to. Several processes may write one file; the
    last one stays.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A new text file that takes the place of ``path``, as :func:`write_whole_file` does, when the block ends.

    Raises:
        OSError: it cannot be written.
    """
    if is_special(path):
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    unfinished = _hidden(path, "unfinished")
    try:
        with unfinished.open("x", encoding="utf-8") as file:
            yield file
            file.flush()
            sync_descriptor(file.fileno())
        unfinished.replace(path)
    except BaseException:
        _delete(unfinished)
        raise
    sync_folder(path.parent)


@contextmanager
def replaced_folder(folder: Path, *, finish: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """An empty folder that takes the place of ``folder`` when the block ends, with all its files on the disk.

    A folder, file or link in that place is deleted afterwards; a link is not followed. Files get the permissions that
    the umask allows. If the block or the disk fails, the old one stays and the new one is deleted.

    Args:
        folder: the place.
        finish: gets the new folder when its files are on the disk, and syncs what it adds itself.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = _hidden(folder, "unfinished")
    try:
        unfinished.mkdir()
        yield unfinished
        _sync_tree(unfinished)
        finish(unfinished)
        _put_in_place(unfinished, folder)
    except BaseException:
        _delete(unfinished)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: the disk failed.
    """
    if sys.platform != "win32":  # there a folder cannot be opened
        _sync_path(folder)


def remove_whole(path: Path) -> None:
    """Delete a folder, file or link so that a crash leaves no half of it under its name. A link is not followed.

    Raises:
        OSError: it cannot be removed; it is then as it was.
    """
    removed = _hidden(path, "removed")
    path.rename(removed)
    _delete(removed)


def remove_debris(folder: Path) -> None:
    """Delete what killed writers of this module left in ``folder``, as far as possible. A link is not followed.

    What had been put aside for a new folder that did not come comes back.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if name := _DEBRIS.fullmatch(path.name):
                if name[2] == "replaced" and not os.path.lexists(folder / name[1]):
                    path.rename(folder / name[1])
                else:
                    _delete(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder`` when the block ends.

    If another process was faster, its folder stays: use this for content that is the same from every process.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as unfinished:
        temporary = Path(unfinished) / folder.name
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def append_line(path: Path, line: str) -> None:
    """Append one line and wait until it is on the disk, so that it survives a crash.

    Raises:
        OSError: it cannot be written. The file is then as it was, or ends in a torn line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _lock(file)
        _end_torn_line(file)
        # A lone surrogate, as in the name of a file that is not UTF-8, becomes its JSON escape.
        file.write(line.encode(errors="backslashreplace") + b"\n")
        file.flush()
        sync_descriptor(file.fileno())


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's number and value. A torn last line, left by a killed process or still being written, is skipped.

    Raises:
        DataError: the file cannot be read, or a line is not JSON.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # it does not end in a newline
                continue
            raise DataError(f"{path}:{number}: is not JSON: {getattr(error, 'msg', error)}") from error


def large_files_folder() -> str:
    """The folder for large temporary files: that of the variable TMPDIR, or else the system's on the disk."""
    is_chosen = bool(os.environ.get("TMPDIR"))
    return str(_DISK_FOLDER) if _DISK_FOLDER.is_dir() and not is_chosen else tempfile.gettempdir()


def not_written(path: Path, error: OSError) -> str:
    """Why an output cannot be written to ``path``, and what to change, for a message that names its option."""
    is_of_a_folder = isinstance(error, (FileExistsError, NotADirectoryError))
    places = (path, *path.parents) if is_of_a_folder else path.parents
    above = next((place for place in places if os.path.lexists(place)), Path())
    reason = error.strerror or str(error)
    if not above.is_dir():
        reason = f"{above} is not a folder"
    elif path.parent != above and isinstance(error, FileNotFoundError):
        reason = f"there is no folder {path.parent}"
    return f"cannot be written: {reason}; name another place"


def _hidden(path: Path, state: Literal["unfinished", "removed", "replaced"]) -> Path:
    """A new name beside ``path`` that no other writer has, and that :func:`remove_debris` knows."""
    return path.with_name(f".{path.name}.{state}-{uuid4().hex}")


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename a synced folder to ``folder``. What was there comes back if that fails."""
    replaced = _hidden(folder, "replaced")
    try:
        if os.path.lexists(folder):
            folder.rename(replaced)  # not deleted first: a file that cannot be deleted would be in the way
        unfinished.rename(folder)
    except BaseException:  # a signal may come after either of them
        if os.path.lexists(replaced) and not os.path.lexists(folder):
            replaced.rename(folder)
        raise
    sync_folder(folder.parent)
    _delete(replaced)


def _delete(path: Path) -> None:
    """Delete a folder, file or link as far as the system allows it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync_tree(folder: Path) -> None:
    """Wait until a new folder and all in it is on the disk, with the permissions that the umask allows."""
    mode = folder.stat().st_mode & 0o666  # the umask made it; some libraries make files for their owner only
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):  # some file systems have no permissions
                    path.chmod(mode)
                _sync_path(path)
        sync_folder(Path(parent))


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY) | NO_FOLLOW)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Wait until an open file is on the disk; raises OSError if the disk failed."""
    if sys.platform == "darwin":
        with suppress(OSError):  # not every file system has it; fsync alone leaves the data in the disk's cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder; a failing disk has other numbers
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _lock(file: IO[bytes]) -> None:
    """Wait until no other process writes to the file. Closing the file, or a crash, unlocks it.

    Without the lock, a line that another process is still writing would look torn and be cut off.
    """
    if sys.platform == "win32":
        return  # nothing is measured there, so there are no two writers
    with suppress(OSError):  # some network file systems have no locks; write without one
        fcntl.flock(file, fcntl.LOCK_EX)


def _end_torn_line(file: IO[bytes]) -> None:
    """Drop a last line that a killed writer left unfinished; keep one that only lacks its newline."""
    file.seek(0)
    complete, newline, last = file.read().rpartition(b"\n")
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        file.truncate(len(complete) + len(newline))
    else:
        file.write(b"\n")
