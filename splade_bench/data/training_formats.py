"""The formats of training data, as rows: how each is recognized, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Literal

from splade_bench.data.arrow_files import (
    arrow_records,
    folder_records,
    is_saved_dataset,
    parquet_files,
    parquet_records,
    saved_dataset_files,
)
from splade_bench.data.columns import COLUMNS, LISTS
from splade_bench.data.foreign_files import looks_like_json, require_known_beginning, require_text
from splade_bench.data.id_folders import ID_FOLDERS, find_id_folder, find_titles
from splade_bench.data.id_records import id_folder_records
from splade_bench.data.placed import PlacedRecord
from splade_bench.data.tables import is_header, table_records
from splade_bench.data.title_records import title_records
from splade_bench.errors import DataError

TrainFormat = Literal[
    "auto",
    "splade-bench",
    "sentence-transformers",
    "pos-neg",
    "lists",
    "json",
    "csv",
    "tsv",
    "parquet",
    "arrow",
    "datasets",
    "beir",
    "light-splade",
    "ms-marco",
    "titles",
    "hub",
]
COLUMN_FORMATS = frozenset((LISTS, *(columns.name for columns in COLUMNS)))
_FOLDERS = "a BEIR folder, a folder of light-splade or MS MARCO, Parquet files, or what save_to_disk of datasets wrote"

Records = Callable[[Path, IO[bytes], str | None], Iterator[PlacedRecord]]
"""Of a file: its path, its content, and the name of its columns, None to recognize them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """One format of a file."""

    name: TrainFormat
    what: str
    fits: Callable[[str, bytes], bool]
    """Whether a file has it, by its name without .gz and its first bytes."""
    is_text: bool = True
    records: Records | None
    """None: it is read as it is."""


@dataclass(frozen=True, slots=True)
class FolderContent:
    """What a folder of training data has."""

    what: str
    records: Callable[[], Iterator[PlacedRecord]]
    sources: list[Path]
    """All files that it is read from."""
    names_columns: bool = True
    """Whether its records have the columns that its files have."""


def _separator(name: str, head: bytes) -> str | None:
    """What is between the cells of a table, by a file's name and its first bytes; None if it is not a table."""
    first = head.lstrip().partition(b"\n")[0].decode("utf-8-sig", errors="replace").rstrip("\r")
    if not first or looks_like_json(head):
        return None
    if name.endswith(".tsv"):
        return "\t"
    if name.endswith(".csv"):
        return "\t" if "\t" in first and "," not in first else ","
    for separator in ("\t", ","):
        if is_header(first, separator):
            return separator
    return "\t" if "\t" in first and not name.endswith((".json", ".jsonl", ".ndjson")) else None


# In the order in which they are tried.
FILE_FORMATS = (
    FileFormat(
        name="parquet",
        what="a Parquet file",
        fits=lambda name, head: head.startswith(b"PAR1"),
        is_text=False,
        records=lambda path, file, columns: parquet_records(path, file),
    ),
    FileFormat(
        name="arrow",
        what="an Arrow file",
        fits=lambda name, head: head.startswith((b"ARROW1", b"\xff\xff\xff\xff")),
        is_text=False,
        records=lambda path, file, columns: arrow_records(path, file),
    ),
    FileFormat(
        name="tsv",
        what="TSV",
        fits=lambda name, head: _separator(name, head) == "\t",
        records=lambda path, file, columns: table_records(path, file, "\t", columns),
    ),
    FileFormat(
        name="csv",
        what="CSV",
        fits=lambda name, head: _separator(name, head) == ",",
        records=lambda path, file, columns: table_records(path, file, ",", columns),
    ),
    FileFormat(name="json", what="JSON", fits=lambda name, head: True, records=None),
)
_FILE_FORMATS = {row.name: row for row in FILE_FORMATS}


def file_format(path: Path, head: bytes, wanted: TrainFormat) -> FileFormat:
    """The format of a file.

    Args:
        path: the file.
        head: the first bytes of its content, without compression.
        wanted: what the user named.

    Raises:
        DataError: it has another one than the user named, or one that is not read.
    """
    name = path.name.lower()
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    found = next(row for row in FILE_FORMATS if row.fits(name, head))
    if found.is_text:
        require_text(path, head)
    named = _FILE_FORMATS.get(wanted)
    if named and named is not found:
        is_table = found.is_text and named.name in ("csv", "tsv") and not looks_like_json(head)
        if not is_table:
            raise DataError(f"{path}: is {found.what}; --train-format {wanted} reads {named.what}; leave it out")
        return named
    if not named and wanted != "auto" and wanted not in COLUMN_FORMATS:
        raise DataError(f"{path}: is {found.what}; --train-format {wanted} reads a folder; leave it out, or name one")
    if found.records is None:
        require_known_beginning(path, head)
    return found


def folder_format(folder: Path, wanted: TrainFormat) -> FolderContent:
    """What is in a folder of training data.

    Raises:
        DataError: nothing that is read, or something else than the user named.
    """
    if wanted == "titles":
        return _titles(folder)
    is_any = wanted == "auto" or wanted in COLUMN_FORMATS
    if (is_any or wanted == "datasets") and is_saved_dataset(folder):
        files = saved_dataset_files(folder)
        what = f"a data set of Hugging Face's datasets, Arrow files: {len(files)}"
        return FolderContent(what, lambda: folder_records(folder, files), files)
    if is_any or wanted in [kind.name for kind in ID_FOLDERS]:
        found = find_id_folder(folder, None if is_any else wanted)
        if found:
            names = ", ".join(os.path.relpath(path, folder) for path in found.sources)
            return FolderContent(
                f"{found.kind.what}: {names}", lambda: id_folder_records(found), found.sources, names_columns=False
            )
    if (is_any or wanted == "parquet") and (files := parquet_files(folder)):
        return FolderContent(f"a folder of Parquet files: {len(files)}", lambda: folder_records(folder, files), files)
    if wanted in _FILE_FORMATS and wanted != "parquet":
        raise DataError(f"{folder}: is a folder; --train-format {wanted} reads a file")
    of_format = "" if is_any else f" of --train-format {wanted}"
    raise DataError(f"{folder}: is a folder without training data{of_format}; would be read: {_FOLDERS}")


def _titles(folder: Path) -> FolderContent:
    """The titles of a BEIR folder as queries, and its judged queries if there are some."""
    documents, judged = find_titles(folder)
    sources = [*dict.fromkeys((documents, *(judged.sources if judged else ())))]
    names = ", ".join(os.path.relpath(path, folder) for path in sources)

    def records() -> Iterator[PlacedRecord]:
        return chain(title_records(folder, documents), id_folder_records(judged) if judged else ())

    return FolderContent(f"a BEIR folder, with titles as queries: {names}", records, sources, names_columns=False)
