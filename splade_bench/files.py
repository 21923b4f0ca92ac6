"""Files that survive a crash: written whole or not at all, or appended to line by line, each synced to the disk.

Several processes may append to one file. A writer waits for the others, and reads the file to see how it ends.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from splade_bench.errors import DataError

if sys.platform != "win32":
    import fcntl

Kind = TypeVar("Kind")


def write_whole_file(path: Path, text: str) -> None:
    """Write a file whole, or leave the old one as it is.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
        os.fsync(file.fileno())


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


def finite_or_none(record: Any) -> Any:
    """``record`` as JSON has it: a dataclass becomes a dictionary, a number that is not finite None, at any depth."""
    return json.loads(ascii_json(record), parse_constant=lambda constant: None)


def ascii_json(record: Any) -> str:
    """One line of JSON that another process reads back unchanged, infinite numbers too, whatever its locale."""
    return json.dumps(msgspec.to_builtins(record))


def json_text(record: Any) -> str:
    """Indented JSON for a file or a terminal; a number that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode()


def encode_line(record: Any) -> str:
    """A dataclass as one line of strict JSON, without its newline: a number that is not finite becomes null."""
    return json.dumps(finite_or_none(record), ensure_ascii=False)


def parse_record(record: Any, kind: type[Kind]) -> Kind:
    """Parsed JSON as a ``kind``, which is a dataclass. Fields that it does not have are ignored.

    Raises:
        ValueError: a field is missing or has another type; the text is one line that names it.
    """
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        complaint, _, path = str(error).replace(" | ", " or ").replace("`", "").partition(" - at $")
        raise ValueError(f"{path.lstrip('.')}: {complaint}" if path else complaint) from error


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
