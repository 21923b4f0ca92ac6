"""Where the usable records of a training file are: checked in one pass, kept on disk, and read again by later runs.

The file of an index: 16 bytes for each record (:data:`ENTRY`), then :class:`IndexFacts` as JSON, then :data:`_TRAILER`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from splade_bench.data.formats import Demands, parse_triple
from splade_bench.data.raw_records import RawRecord, RawRecords
from splade_bench.data.records import Triple, update_digest
from splade_bench.data.stamps import UNFINISHED, FileStamp, remove_left_behind
from splade_bench.errors import DataError, one_line

logger = logging.getLogger(__name__)

# Raise it if what is checked or written changes: then older indexes are made again.
INDEX_VERSION = 4
ENTRY = struct.Struct("<QII")
"""Offset of a record in the file, its length in bytes, and the number that names it (``RawRecord.number``)."""

_TRAILER = struct.Struct("<II")
"""Length of the facts in bytes, and the CRC-32 of all before the trailer."""
_MAX_REASONS = 20
_LONGEST_REASON = 300
_BLOCK_BYTES = 2**20
_PROGRESS_INTERVAL_S = 5.0


@dataclass(kw_only=True, slots=True)
class IndexFacts:
    """What is known of all records together."""

    version: int = INDEX_VERSION
    stamp: FileStamp
    is_list: bool
    records: int = 0
    fewest_negatives: int = 0
    largest_record_bytes: int = 0
    skipped_records: int = 0
    skipped_negatives: int = 0
    skipped_reasons: list[str]
    """The first few."""
    sha256: str = ""

    def skip(self, reason: str) -> None:
        """Remember why something was left out."""
        if len(self.skipped_reasons) < _MAX_REASONS:
            # The name of a file may have bytes that are not UTF-8, which JSON cannot have.
            text = one_line(reason.encode(errors="backslashreplace").decode())
            self.skipped_reasons.append(text[:_LONGEST_REASON])


class IndexWriter:
    """Checks all records of a file and writes their index.

    Args:
        stamp: of the file.
        hashed_after: what the hash of the texts covers after the triples, as ``sha256_of_texts`` does.
    """

    def __init__(self, records: RawRecords, demands: Demands, *, stamp: FileStamp, hashed_after: object) -> None:
        self._records = records
        self._demands = demands
        self._hashed_after = hashed_after
        self._stamp = stamp

    def write(self, target: IO[bytes]) -> IndexFacts:
        """Write the index to an empty file.

        Raises:
            DataError: a record cannot be used, and bad ones are not skipped; or there is none that can be used.
            OSError: the index cannot be written.
        """
        facts = IndexFacts(stamp=self._stamp, is_list=self._records.is_list, skipped_reasons=[])
        digest, checksum, shown_s = hashlib.sha256(b"["), 0, time.monotonic()
        for raw in self._records:
            line = self._checked(raw, facts)
            if line is None:
                continue
            entry = ENTRY.pack(raw.offset, len(raw.text), raw.number)
            target.write(entry)
            checksum = zlib.crc32(entry, checksum)
            digest.update(line if facts.records == 1 else b", " + line)
            if time.monotonic() - shown_s > _PROGRESS_INTERVAL_S:
                share = raw.offset / max(1, self._stamp.size_bytes)
                logger.info("checking %s: %d records, %.0f%%", self._records.path, facts.records, 100 * share)
                shown_s = time.monotonic()
        if not facts.records:
            first = "".join(f"; the first: {reason}" for reason in facts.skipped_reasons[:1])
            raise DataError(f"{self._records.path}: holds no records{' that can be used' if first else ''}{first}")
        if facts.skipped_records > facts.records:
            raise DataError(
                f"{self._records.path}: {facts.skipped_records} of {facts.skipped_records + facts.records} records "
                f"cannot be used: is it the right file? The first: {facts.skipped_reasons[0]}"
            )
        digest.update(b"]\n")
        update_digest(digest, self._hashed_after)
        facts.sha256 = digest.hexdigest()
        encoded = msgspec.json.encode(facts)
        target.write(encoded + _TRAILER.pack(len(encoded), zlib.crc32(encoded, checksum)))
        target.flush()
        return facts

    def _checked(self, raw: RawRecord, facts: IndexFacts) -> bytes | None:
        """A usable record as it is hashed, counted in ``facts``; None for a skipped one."""
        try:
            records = self._records
            triple, left_out = parse_triple(
                records.path, raw, self._demands, is_list=records.is_list, has_places=records.has_places
            )
        except DataError as error:
            if not self._demands.skip_bad_records:
                raise DataError(f"{error}; --skip-bad-records leaves such records out") from error
            facts.skipped_records += 1
            facts.skip(str(error))
            return None
        facts.skipped_negatives += len(left_out)
        for reason in left_out:
            facts.skip(reason)
        count = len(triple.negatives)
        facts.fewest_negatives = min(count, facts.fewest_negatives) if facts.records else count
        facts.largest_record_bytes = max(facts.largest_record_bytes, len(raw.text))
        facts.records += 1
        return _hashed(triple)


def _hashed(triple: Triple) -> bytes:
    """A triple as it is hashed. One without further positives and scores has the hash that it always had."""
    parts: list[object] = [triple.query, triple.positive, triple.negatives]
    if triple.other_positives or triple.teacher_scores:
        parts += [triple.other_positives, triple.teacher_scores]
    return json.dumps(parts, ensure_ascii=False).encode()


def load_index(path: Path, stamp: FileStamp) -> tuple[IO[bytes], IndexFacts] | None:
    """An index that was kept for a file with this stamp; None if there is none, or it is damaged."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    facts = _read_facts(file)
    if facts and (facts.version, facts.stamp) == (INDEX_VERSION, stamp):
        return file, facts
    file.close()
    return None


def keep_index(path: Path | None, write: Callable[[IO[bytes]], IndexFacts]) -> tuple[IO[bytes], IndexFacts]:
    """The index that ``write`` makes, in the file ``path``, whole or not at all; else in a nameless temporary file.

    Raises:
        DataError: there is no room for it in either place, or from ``write``.
    """
    if path:
        try:
            return _keep_at(path, write)
        except OSError as error:
            logger.info("%s: the index cannot be kept (%s); a temporary file is used", path.parent, error.strerror)
    try:
        with ExitStack() as opened:
            file = opened.enter_context(tempfile.TemporaryFile())
            facts = write(file)
            opened.pop_all()
            return file, facts
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: the index of the training file cannot be written there ({error.strerror}); set "
            "TMPDIR or SPLADE_BENCH_CACHE to a folder with room"
        ) from error


def _keep_at(path: Path, write: Callable[[IO[bytes]], IndexFacts]) -> tuple[IO[bytes], IndexFacts]:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as target:
            facts = write(target)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    # Opened only now: Windows replaces no file that is open.
    kept = load_index(path, facts.stamp)
    if kept is None or kept[1] != facts:
        raise OSError(errno.EBUSY, "another process replaced it")
    return kept


def _read_facts(file: IO[bytes]) -> IndexFacts | None:
    """The facts at the end of an index, if nothing in it is damaged."""
    try:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - _TRAILER.size))
        facts_bytes, expected = _TRAILER.unpack(file.read())
        entries_bytes = size_bytes - _TRAILER.size - facts_bytes
        file.seek(0)
        checksum, left = 0, size_bytes - _TRAILER.size
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        file.seek(entries_bytes)
        facts = msgspec.json.decode(file.read(facts_bytes), type=IndexFacts)
    except (OSError, ValueError, struct.error, msgspec.DecodeError):
        return None
    return facts if (checksum, entries_bytes) == (expected, facts.records * ENTRY.size) else None
