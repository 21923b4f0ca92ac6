"""The triples of a training file, checked once and then read one by one from the disk."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import IO, Any, overload

from typing_extensions import Self

from splade_bench.data.columns import describe
from splade_bench.data.formats import Demands, parse_triple, record_and_place
from splade_bench.data.raw_records import RawRecord, RawRecords, record_name
from splade_bench.data.records import IndexedTriples, Triple, sha256_of_texts
from splade_bench.data.stamps import FileStamp
from splade_bench.data.training_formats import TrainFormat
from splade_bench.data.training_source import TrainingSource, open_source
from splade_bench.data.triple_index import ENTRY, IndexFacts, IndexWriter, keep_index, load_index
from splade_bench.errors import DataError


class TripleFile(IndexedTriples):
    """The usable records of a training file. Memory: none for each record; a buffer, and what is read.

    It is checked by :meth:`open`, so reading a record raises a :class:`DataError` only if the file changed since.
    """

    def __init__(
        self, path: Path, source: TrainingSource, entries: IO[bytes], facts: IndexFacts, demands: Demands
    ) -> None:
        self.path = path
        self.facts = facts
        self._source = source
        self._entries = entries
        self._demands = demands
        for file in (source.file, entries):
            weakref.finalize(self, file.close)

    @classmethod
    def open(
        cls,
        path: Path,
        demands: Demands,
        *,
        wanted: TrainFormat = "auto",
        hashed_after: object = None,
        cache: Path | None = None,
    ) -> Self:
        """Check a file, or find in ``cache`` that it was checked before.

        Args:
            path: a file, a pipe or a folder; a pipe is copied to a temporary file.
            demands: what a record must have.
            wanted: its format.
            hashed_after: what the hash of the texts covers after the triples.
            cache: the folder that keeps indexes and conversions; None for temporary files.

        Raises:
            DataError: the file cannot be read, or a record cannot be used and bad ones are not skipped.
        """
        source = open_source(path, wanted, cache=cache)
        try:
            stamp = FileStamp.of(os.fstat(source.file.fileno()))
            kept_at = None
            if cache and source.name and stamp.is_settled:
                key = (os.fsencode(source.name).hex(), demands, sha256_of_texts(hashed_after))
                kept_at = cache / "indexes" / f"{sha256_of_texts(repr(key))[:32]}.index"
            found = load_index(kept_at, stamp) if kept_at else None
            if not found:
                records = RawRecords(path, source.file, has_places=source.has_places)
                writer = IndexWriter(records, demands, stamp=stamp, hashed_after=hashed_after)
                found = keep_index(kept_at, writer.write)
        except BaseException:
            source.file.close()
            raise
        triples = cls(path, source, *found, demands)
        triples._require_unchanged()
        return triples

    @property
    def what(self) -> str:
        """The format, and the columns of the first record, for people."""
        if not self._source.names_columns:
            return self._source.what
        return f"{self._source.what}, {describe(self._record(0)[1], self._demands.columns)}"

    def __len__(self) -> int:
        return self.facts.records

    @overload
    def __getitem__(self, row: int) -> Triple: ...
    @overload
    def __getitem__(self, row: slice) -> list[Triple]: ...
    def __getitem__(self, row: int | slice) -> Triple | list[Triple]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        raw = self._raw(row)
        is_list, has_places = self.facts.is_list, self._source.has_places
        try:
            return parse_triple(self.path, raw, self._demands, is_list=is_list, has_places=has_places)[0]
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
        if self._source.has_places:
            return self._record(row)[0]
        return record_name(self.path, self._entry(row)[2], is_list=self.facts.is_list)

    def _record(self, row: int) -> tuple[str, Any]:
        """A record as a user finds it, and its parsed JSON."""
        return record_and_place(
            self.path, self._raw(row), is_list=self.facts.is_list, has_places=self._source.has_places
        )

    def _raw(self, row: int) -> RawRecord:
        offset, length, number = self._entry(row)
        self._source.file.seek(offset)
        text = self._source.file.read(length)
        self._require_unchanged()
        # The line is not known: an error here would be one of a file that changed and kept its size and time.
        return RawRecord(offset, number, number, text)

    def _entry(self, row: int) -> tuple[int, int, int]:
        row = range(len(self))[row]  # IndexError where a list has one
        self._entries.seek(row * ENTRY.size)
        offset, length, number = ENTRY.unpack(self._entries.read(ENTRY.size))
        return offset, length, number

    def _require_unchanged(self) -> None:
        if self._source.is_private:
            return
        # Of the open file: that the path is deleted, or leads to another file now, changes nothing.
        stamp = FileStamp.of(os.fstat(self._source.file.fileno()))
        if not stamp.has_same_content_as(self.facts.stamp):
            raise DataError(f"{self.path}: was changed after it was checked; start again, and leave the file as it is")
