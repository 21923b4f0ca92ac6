"""Records of other formats, on their way to JSON Lines: each with its place, as a user finds it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from splade_bench.data.raw_records import MAX_RECORD_BYTES, cannot_be_read
from splade_bench.errors import DataError
from splade_bench.units import format_bytes

# What a compressed file begins with, and what opens it.
_COMPRESSIONS: Mapping[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class PlacedRecord:
    """A record of a training file, or why there is none."""

    place: str
    """What follows the path that the user named: ":17", ": row 17", "/qrels/train.tsv:17"."""
    record: Any = None
    """Of JSON types, with the columns that it has in its file."""
    fault: str | None = None

    @property
    def line(self) -> bytes:
        """Its line of JSON. A lone surrogate becomes its JSON escape, which is refused where it is read."""
        content = {"place": self.place, "record": self.record} | ({"fault": self.fault} if self.fault else {})
        return json.dumps(content, ensure_ascii=False, default=_as_text).encode(errors="backslashreplace") + b"\n"


def _as_text(value: Any) -> str:
    """What JSON has no type for, such as a date, or bytes of a Parquet file."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def decompressed(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The content of an open file that may be compressed; the file itself if it is not.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        file.seek(0)
        head = file.read(8)
        file.seek(0)
    except OSError as error:
        raise cannot_be_read(path, error) from error
    opener = next((opener for beginning, opener in _COMPRESSIONS.items() if head.startswith(beginning)), None)
    return cast("IO[bytes]", opener(file)) if opener else file


def read_some(path: Path, file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file that may be compressed; fewer than ``size`` only at its end.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    try:
        return file.read(size)
    except _DAMAGED as error:
        raise DataError(f"{path}: is compressed and damaged, or cut off: {error}") from error
    except OSError as error:
        raise cannot_be_read(path, error) from error


class Lines(Iterator[str]):
    """The lines of a text file that may be compressed, with their newlines. ``number`` is that of the last one.

    Raises:
        DataError: the file cannot be read, a line is not UTF-8, or is too long.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.number = 0
        self._file = file

    def __next__(self) -> str:
        try:
            line = self._file.readline(MAX_RECORD_BYTES + 1)
        except _DAMAGED as error:
            raise DataError(f"{self.path}:{self.number + 1}: is compressed and damaged, or cut off: {error}") from error
        except OSError as error:
            raise cannot_be_read(self.path, error) from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise DataError(f"{self.path}:{self.number}: a line is longer than {format_bytes(MAX_RECORD_BYTES)}")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}:{self.number}: is not UTF-8; save the file as UTF-8") from error
