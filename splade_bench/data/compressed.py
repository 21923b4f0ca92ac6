"""Files that may be compressed: their bytes, and their lines of text."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from splade_bench.data.raw_records import MAX_RECORD_BYTES, cannot_be_read, open_data
from splade_bench.errors import DataError
from splade_bench.units import format_bytes

# What a compressed file begins with, and what opens it.
_COMPRESSIONS: Mapping[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
# What reading one raises that is damaged, beside an OSError.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is compressed.

    Raises:
        DataError: it cannot be read.
    """
    file, _ = open_data(path)
    with file:
        yield decompressed(path, file)


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


def damaged(path: Path, error: Exception) -> DataError:
    """What an error of :data:`DAMAGED` means to the user."""
    return DataError(f"{path}: is compressed and damaged, or cut off: {error}")


def read_some(path: Path, file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file that may be compressed; fewer than ``size`` only at its end.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    try:
        return file.read(size)
    except DAMAGED as error:
        raise damaged(path, error) from error
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
        except DAMAGED as error:
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


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a file, without its newline; blank ones are left out.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    with opened(path) as file:
        lines = Lines(path, file)
        yield from ((lines.number, line.rstrip("\r\n")) for line in lines if line.strip())
