"""Where each record of a JSON Lines file or a JSON list begins and ends, found in one pass and in bounded memory."""

from __future__ import annotations

import json
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splade_bench.data.foreign_files import is_line_of_lists, require_json, wrapped_list_at
from splade_bench.errors import DataError, one_line
from splade_bench.units import format_bytes

MAX_RECORD_BYTES = 64 * 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD_BYTES = 2**18
_CHUNK_BYTES = 2**18
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["\[\]{},]')


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The bytes of one record, not parsed yet."""

    offset: int
    """Of its first byte in the file."""
    line: int
    """Line of its first byte, counted from 1."""
    number: int
    """What names it: its line in JSON Lines, its place in a JSON list; counted from 1."""
    text: bytes


def open_data(path: Path) -> tuple[IO[bytes], bool]:
    """The file, and whether it is a temporary copy: a pipe can be read only once.

    Raises:
        DataError: ``path`` cannot be read, or is a device.
    """
    file: IO[bytes]
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise DataError(f"{path}: is a device; give a file or a pipe")
        with ExitStack() as opened:
            file = opened.enter_context(path.open("rb"))
            if is_copy := not stat.S_ISREG(mode):
                copy = opened.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, copy, _CHUNK_BYTES)
                file.close()
                file = copy
            opened.pop_all()
            return file, is_copy
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise cannot_be_read(path, error) from error


def cannot_be_read(path: Path, error: Exception) -> DataError:
    """What an error of the operating system means to the user."""
    return DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


class RawRecords:
    """The records of an open file, each time from its beginning. Blank lines are skipped.

    The file is JSON Lines, a JSON list, or an object that has the list of the records in it.

    Args:
        path: the file, as errors name it.
        file: the open file.
        has_places: whether it was made by :mod:`splade_bench.data.training_source`, and each record says where it is
            from.

    Raises:
        DataError: the file cannot be read, or is in another format.
    """

    def __init__(self, path: Path, file: IO[bytes], *, has_places: bool = False) -> None:
        self.path = path
        self.has_places = has_places
        self._file = file
        try:
            file.seek(0)
            head = file.read(HEAD_BYTES)
        except OSError as error:
            raise cannot_be_read(path, error) from error
        self._start, self._first_line, self.is_list = 0, 1, False
        self._before_list = b""
        """What a list is wrapped in, up to its bracket."""
        if not has_places:
            self._find_start(head)

    def _find_start(self, head: bytes) -> None:
        begin = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
        self._start = begin
        bracket = wrapped_list_at(head[begin:])
        if bracket is not None:
            self._before_list = head[begin : begin + bracket]
        else:
            require_json(self.path, head)
            before, _, _ = head[begin:].partition(b"[")
            bracket = len(before) if not before.strip() and not is_line_of_lists(head[begin:]) else len(head)
        if begin + bracket < len(head):
            self.is_list = True
            self._start = begin + bracket + 1
            self._first_line += head[: self._start].count(b"\n")

    def __iter__(self) -> Iterator[RawRecord]:
        """One after another.

        Raises:
            DataError: the file cannot be read, or where a record ends cannot be told.
        """
        try:
            self._file.seek(self._start)
            yield from self._in_list() if self.is_list else self._in_lines()
        except OSError as error:
            raise cannot_be_read(self.path, error) from error

    def _in_lines(self) -> Iterator[RawRecord]:
        # A line ends at a newline only: JSON strings may have the other characters at which splitlines() breaks.
        offset, number = self._start, 1
        while line := self._file.readline(MAX_RECORD_BYTES + 1):
            self._require_bounded(line, number)
            # Without its newline, behind which JSON that is cut off would be wrong: on the next line.
            if text := line.rstrip():
                yield RawRecord(offset, number, number, text)
            offset, number = offset + len(line), number + 1

    def _in_list(self) -> Iterator[RawRecord]:
        offset, line, number, item, mark = self._start, self._first_line, 1, bytearray(), b""
        for piece, next_mark in self._pieces():
            if mark == b"]":
                if self._before_list:
                    self._require_end_of_object(offset, line)
                    return
                if piece.strip() or next_mark:
                    raise DataError(f"{self.path}:{line}: is not JSON: text follows the end of the list")
                continue
            item += piece
            self._require_bounded(item, line)
            if not next_mark:
                continue
            mark = next_mark
            if mark == b"}":
                raise DataError(f"{self.path}:{line + item.count(10)}: is not JSON: a bracket has no partner")
            if number > 1 or mark == b"," or item.strip():  # not: an empty list
                yield RawRecord(offset, line, number, bytes(item))
            offset, line, number = offset + len(item) + 1, line + item.count(b"\n"), number + 1
            item.clear()
        if mark != b"]":
            raise DataError(f"{self.path}:{line}: is not JSON: the list does not end; the file may be cut off")

    def _require_end_of_object(self, offset: int, line: int) -> None:
        """Check that what follows the list ends the object around it, and that the object has no second list."""
        self._file.seek(offset)
        rest = self._file.read(HEAD_BYTES)
        try:
            wrapping = json.loads(self._before_list + b"null" + rest)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}:{line}: is not JSON: the object around the list does not end well") from error
        if others := [key for key, value in wrapping.items() if isinstance(value, list) and value]:
            raise DataError(
                f"{self.path}: has a second list, {one_line(others[0])!r}; write the records as JSON Lines, one a line"
            )

    def _pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """Text up to the mark that ends an item of the list, and the mark; b"" where a chunk ends first."""
        depth, in_string, at = 1, False, 0
        while chunk := self._file.read(_CHUNK_BYTES):
            begin = 0
            while match := (_IN_STRING if in_string else _OUTSIDE).search(chunk, at):
                mark, at = match[0], match.end()
                if mark == b"\\":
                    at += 1  # the escaped character, perhaps the first of the next chunk
                elif mark == b'"':
                    in_string = not in_string
                else:
                    depth += (mark in b"[{") - (mark in b"]}")
                    if depth == 0 or (depth == 1 and mark == b","):
                        yield chunk[begin : at - 1], mark
                        begin = at
            yield chunk[begin:], b""
            at = max(0, at - len(chunk))

    def _require_bounded(self, text: bytes | bytearray, line: int) -> None:
        if len(text) > MAX_RECORD_BYTES:
            limit = format_bytes(MAX_RECORD_BYTES)
            raise DataError(f"{self.path}:{line}: a record is larger than {limit}; a quote or a newline may be missing")


def record_name(path: Path, number: int, *, is_list: bool) -> str:
    """The record with this ``number`` as a user finds it: "train.jsonl:17", "train.json: record 17"."""
    return f"{path}: record {number}" if is_list else f"{path}:{number}"
