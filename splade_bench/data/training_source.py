"""What ``--train-file`` names, in any format, as JSON records on the disk.

JSON is read where it is. Everything else is converted once, line by line, into JSON Lines in the cache folder. The
conversion is used again until a file that it was made from changes. The formats are rows of
:mod:`splade_bench.data.training_formats`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from splade_bench.data.arrow_files import hub_folder
from splade_bench.data.compressed import decompressed, read_some
from splade_bench.data.placed import PlacedRecord
from splade_bench.data.raw_records import HEAD_BYTES, cannot_be_read, open_data
from splade_bench.data.records import sha256_of_texts
from splade_bench.data.stamps import UNFINISHED, FileStamp, remove_left_behind
from splade_bench.data.training_formats import (
    COLUMN_FORMATS,
    FolderContent,
    TrainFormat,
    file_format,
    folder_format,
)
from splade_bench.errors import DataError
from splade_bench.files import sync_descriptor

logger = logging.getLogger(__name__)

# Raise it if what a conversion writes changes: then older ones are made again.
CONVERSION_VERSION = 1

_COPIED_BYTES = 2**18
_PROGRESS_INTERVAL_S = 5.0

Write = Callable[[IO[bytes]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSource:
    """An open file of JSON records."""

    file: IO[bytes]
    what: str
    """The format of what the user named, for people."""
    has_places: bool = False
    """Whether each record says where it is from."""
    is_private: bool = False
    """Whether no other program changes the file: a copy, or a conversion."""
    names_columns: bool = True
    """Whether its records have the columns of what the user named."""
    name: Path | None
    """What its index is kept under. None: the file is temporary, and so is its index."""


def open_source(path: Path, wanted: TrainFormat = "auto", *, cache: Path | None = None) -> TrainingSource:
    """The records of a file, a pipe or a folder.

    Args:
        path: what ``--train-file`` names.
        wanted: the format; "auto" to recognize it.
        cache: the folder that keeps conversions; None for temporary files.

    Raises:
        DataError: it cannot be read, or has another format; the message says which one and what would be read.
    """
    if wanted == "hub":
        return _folder_source(path, folder_format(hub_folder(path), "parquet"), wanted, cache)
    if path.is_dir():
        return _folder_source(path, folder_format(path, wanted), wanted, cache)
    try:
        file, is_copy = open_data(path)
    except DataError as error:
        may_be_name = len(path.parts) in (2, 3) and not path.suffix and not path.is_absolute()
        hint = "; if it names a data set on the Hugging Face Hub, add --train-format hub"
        raise DataError(f"{error}{hint}" if may_be_name else str(error)) from error
    with ExitStack() as opened:
        opened.enter_context(file)
        source = _file_source(path, file, wanted, cache, is_copy=is_copy)
        if source.file is file:
            opened.pop_all()
        return source


def _folder_source(path: Path, content: FolderContent, wanted: TrainFormat, cache: Path | None) -> TrainingSource:
    def write(target: IO[bytes]) -> None:
        _write_records(path, content.records(), target)

    source = _converted(path, content.what, write, content.sources, wanted, cache)
    return replace(source, names_columns=content.names_columns)


def _file_source(
    path: Path, file: IO[bytes], wanted: TrainFormat, cache: Path | None, *, is_copy: bool
) -> TrainingSource:
    content = decompressed(path, file)
    found = file_format(path, read_some(path, content, HEAD_BYTES), wanted)
    if found.records is None and content is file:
        return TrainingSource(file=file, what=found.what, is_private=is_copy, name=None if is_copy else path.resolve())
    columns = wanted if wanted in COLUMN_FORMATS else None

    def write(target: IO[bytes]) -> None:
        content.seek(0)
        if found.records is None:
            while piece := read_some(path, content, _COPIED_BYTES):
                target.write(piece)
        else:
            _write_records(path, found.records(path, content, columns), target)

    what = found.what if content is file else f"{found.what}, compressed"
    sources = [] if is_copy else [path]
    return _converted(path, what, write, sources, wanted, cache, has_places=found.records is not None)


def _converted(
    path: Path,
    what: str,
    write: Write,
    sources: Sequence[Path],
    wanted: TrainFormat,
    cache: Path | None,
    *,
    has_places: bool = True,
) -> TrainingSource:
    """A conversion that ``cache`` keeps, or a new one; in a temporary file if it cannot be kept."""
    stamps = {str(source.resolve()): _stamp(source) for source in sources}
    name = None
    if cache and stamps and all(stamp.is_settled for stamp in stamps.values()):
        of_path = sha256_of_texts(os.fsencode(path.resolve()).hex(), wanted, what)[:16]
        of_content = sha256_of_texts(CONVERSION_VERSION, repr(sorted(stamps.items())))[:16]
        name = cache / "conversions" / f"{of_path}-{of_content}.jsonl"
    file = _kept(name, write, stamps.values()) if name else None
    if file is None:
        name, file = None, _temporary(write)
    if any(_stamp(Path(source)) != stamp for source, stamp in stamps.items()):
        file.close()
        raise DataError(f"{path}: was changed while it was read; start again, and leave it as it is")
    return TrainingSource(file=file, what=what, has_places=has_places, is_private=True, name=name)


def _stamp(source: Path) -> FileStamp:
    try:
        return FileStamp.of(source.stat())
    except OSError as error:
        raise cannot_be_read(source, error) from error


def _kept(name: Path, write: Write, stamps: Collection[FileStamp]) -> IO[bytes] | None:
    """The conversion that is kept under this name, made if it is missing; None if there is no room for it."""
    with suppress(OSError):
        return name.open("rb")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        remove_left_behind(name.parent)
        descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=name.parent)
        try:
            with os.fdopen(descriptor, "wb") as target:
                write(target)
                target.flush()
                sync_descriptor(target.fileno())
            # As old as what it was made from: its index is then kept if that of its sources would be.
            newest_ns = max(stamp.mtime_ns for stamp in stamps)
            os.utime(unfinished, ns=(newest_ns, newest_ns))
            Path(unfinished).replace(name)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        for older in name.parent.glob(f"{name.name.partition('-')[0]}-*"):
            if older != name:
                older.unlink(missing_ok=True)
        return name.open("rb")
    except OSError as error:
        logger.info("%s: the conversion cannot be kept (%s); a temporary file is used", name.parent, error.strerror)
        return None


def _temporary(write: Write) -> IO[bytes]:
    try:
        with ExitStack() as opened:
            file = opened.enter_context(tempfile.TemporaryFile())
            write(file)
            file.flush()
            opened.pop_all()
            return file
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: the training file cannot be converted there ({error.strerror}); set TMPDIR or "
            "SPLADE_BENCH_CACHE to a folder with room for a copy of its texts"
        ) from error


def _write_records(path: Path, records: Iterator[PlacedRecord], target: IO[bytes]) -> None:
    shown_s = time.monotonic()
    for number, record in enumerate(records, 1):
        target.write(record.line)
        if time.monotonic() - shown_s > _PROGRESS_INTERVAL_S:
            logger.info("converting %s: %d records", path, number)
            shown_s = time.monotonic()
