"""The triples of a training file, checked once and then read one by one from the disk."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path
from typing import IO, overload

from typing_extensions import Self

from splade_bench.data.formats import Demands, parse_triple
from splade_bench.data.raw_records import RawRecord, RawRecords, open_data, record_name
from splade_bench.data.records import IndexedTriples, Triple, sha256_of_texts
from splade_bench.data.triple_index import ENTRY, FileStamp, IndexFacts, IndexWriter, keep_index, load_index
from splade_bench.errors import DataError

# A file that changed so short a time ago may change again without another time stamp: its index is not kept.
_SETTLED_S = 2.0


class TripleFile(IndexedTriples):
    """The usable records of a JSON or JSON Lines file. Memory: none for each record; a buffer, and what is read.

    It is checked by :meth:`open`, so reading a record raises a :class:`DataError` only if the file changed since.
    """

    def __init__(
        self,
        path: Path,
        data: IO[bytes],
        entries: IO[bytes],
        facts: IndexFacts,
        demands: Demands,
        *,
        is_copy: bool,
    ) -> None:
        self.path = path
        self.facts = facts
        self._is_copy = is_copy
        self._data = data
        self._entries = entries
        self._demands = demands
        for file in (data, entries):
            weakref.finalize(self, file.close)

    @classmethod
    def open(cls, path: Path, demands: Demands, *, hashed_after: object = None, cache: Path | None = None) -> Self:
        """Check a file, or find in ``cache`` that it was checked before.

        Args:
            path: a file or a pipe; a pipe is copied to a temporary file.
            demands: what a record must have.
            hashed_after: what the hash of the texts covers after the triples.
            cache: the folder that keeps indexes; None for a temporary file.

        Raises:
            DataError: the file cannot be read, or a record cannot be used and bad ones are not skipped.
        """
        data, is_copy = open_data(path)
        try:
            status = os.fstat(data.fileno())
            stamp = FileStamp.of(status)
            kept_at = None
            if cache and not is_copy and abs(time.time() - status.st_mtime) > _SETTLED_S:
                key = (os.fsencode(path.resolve()).hex(), demands, sha256_of_texts(hashed_after))
                kept_at = cache / "indexes" / f"{sha256_of_texts(repr(key))[:32]}.index"
            found = load_index(kept_at, stamp) if kept_at else None
            if not found:
                records = RawRecords(path, data)
                writer = IndexWriter(records, demands, stamp=stamp, hashed_after=hashed_after)
                found = keep_index(kept_at, writer.write)
        except BaseException:
            data.close()
            raise
        triples = cls(path, data, *found, demands, is_copy=is_copy)
        triples._require_unchanged()
        return triples

    def __len__(self) -> int:
        return self.facts.records

    @overload
    def __getitem__(self, row: int) -> Triple: ...
    @overload
    def __getitem__(self, row: slice) -> list[Triple]: ...
    def __getitem__(self, row: int | slice) -> Triple | list[Triple]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        offset, length, number = self._entry(row)
        self._data.seek(offset)
        text = self._data.read(length)
        self._require_unchanged()
        # The line is not known: an error here would be one of a file that changed and kept its size and time.
        raw = RawRecord(offset, number, number, text)
        try:
            return parse_triple(self.path, raw, self._demands, is_list=self.facts.is_list)[0]
        except DataError as error:
            raise DataError(f"{error}; the file was changed after it was checked") from error

    @property
    def fewest_negatives(self) -> int:
        return self.facts.fewest_negatives

    @property
    def size_bytes(self) -> int:
        return self.facts.stamp.size_bytes

    @property
    def largest_bytes(self) -> int:
        return self.facts.largest_record_bytes

    def record_name(self, row: int) -> str:
        return record_name(self.path, self._entry(row)[2], is_list=self.facts.is_list)

    def _entry(self, row: int) -> tuple[int, int, int]:
        row = range(len(self))[row]  # IndexError where a list has one
        self._entries.seek(row * ENTRY.size)
        offset, length, number = ENTRY.unpack(self._entries.read(ENTRY.size))
        return offset, length, number

    def _require_unchanged(self) -> None:
        if self._is_copy:
            return
        # Of the open file: that the path is deleted, or leads to another file now, changes nothing.
        stamp = FileStamp.of(os.fstat(self._data.fileno()))
        if not stamp.has_same_content_as(self.facts.stamp):
            raise DataError(f"{self.path}: was changed after it was checked; start again, and leave the file as it is")
