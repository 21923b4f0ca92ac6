"""CSV and TSV files as records: a column is named in the header, or has its place in a list."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

from splade_bench.data.columns import columns_of, has_ids, is_column, shown_keys
from splade_bench.data.compressed import Lines
from splade_bench.data.placed import PlacedRecord
from splade_bench.data.raw_records import MAX_RECORD_BYTES
from splade_bench.errors import DataError, error_line

_IDENTIFIER = re.compile(r"[A-Za-z_][\w-]*")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
Row = tuple[int, list[str]]
"""Its first line, counted from 1, and its cells."""


def is_header(line: str, separator: str) -> bool:
    """Whether the first line of a table names its columns, as far as names tell."""
    names = [cell.strip().lower() for cell in line.replace('"', "").split(separator)]
    # A column without a name is that of row numbers, which pandas writes.
    is_fit = any(map(is_column, names)) and _are_names([name for name in names if name])
    return is_fit or has_ids(names)


def _are_names(cells: Sequence[str]) -> bool:
    return len(cells) > 1 and all(_IDENTIFIER.fullmatch(cell.strip()) for cell in cells)


def table_records(path: Path, file: IO[bytes], separator: str, wanted: str | None = None) -> Iterator[PlacedRecord]:
    """The rows of a CSV or TSV file.

    With a header, its columns are those of JSON records. Without one, a row is a query, a positive and any number of
    negatives. A TSV file without a header has no quotes, as those of MS MARCO.

    Args:
        path: the file, as errors name it.
        file: its content.
        separator: what is between two cells.
        wanted: the name of its columns (:func:`splade_bench.data.columns.columns_of`).

    Raises:
        DataError: the file cannot be read, or which columns it has cannot be told.
    """
    lines = Lines(path, file)
    first_line = next(lines, "")
    if not first_line.strip():
        raise DataError(f"{path}:1: is empty; begin with a header or a row")
    csv.field_size_limit(MAX_RECORD_BYTES)
    with_header = is_header(first_line, separator)
    rows = _rows(path, lines, first_line, separator, is_quoted=with_header or separator != "\t")
    first = next(rows)
    if with_header:
        yield from _named(path, [name.strip().lower() for name in first[1]], rows, wanted)
    else:
        if len(first[1]) == 1 and ";" in first_line:
            raise DataError(f"{path}:1: has semicolons between its cells; write commas, or tabs in a .tsv file")
        if _are_names(first[1]):
            names = ", ".join(cell.strip() for cell in first[1])
            raise DataError(
                f"{path}:1: looks like a header of columns that are not known: {names}; rename them, such as query, "
                "positive, negative, or write a header above"
            )
        _require_texts(path, first[1])
        yield from (_listed(row) for row in chain([first], rows))


def _rows(path: Path, lines: Lines, first_line: str, separator: str, *, is_quoted: bool) -> Iterator[Row]:
    all_lines = chain([first_line], lines)
    if not is_quoted:
        # lines.number is read after the line itself was.
        yield from ((lines.number, line.rstrip("\r\n").split(separator)) for line in all_lines if line.strip())
        return
    reader = csv.reader(all_lines, delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = lines.number + 1
    except csv.Error as error:
        advice = 'write a quote within quotes as ""'
        raise DataError(f"{path}:{line}: is not a row that can be read: {error_line(error)}; {advice}") from error


def _named(path: Path, header: Sequence[str], rows: Iterator[Row], wanted: str | None) -> Iterator[PlacedRecord]:
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path}:1: two columns are called {twice[0]!r}; give each a name of its own")
    try:
        columns_of(tuple(header), wanted)
    except ValueError as error:
        raise DataError(f"{path}:1: {error}") from error
    for line, cells in rows:
        if len(cells) == len(header):
            # An empty cell: such as the third negative of a row with two.
            record = {name: text or None for name, text in zip(header, cells, strict=True)}
            yield PlacedRecord(f":{line}", record)
        else:
            yield PlacedRecord(f":{line}", fault=f"has {len(cells)} columns, and the header {len(header)}")


def _listed(row: Row) -> PlacedRecord:
    line, cells = row
    if len(cells) < 2:
        return PlacedRecord(f":{line}", fault="has one column; write a query, a positive and any number of negatives")
    return PlacedRecord(f":{line}", [*cells[:2], *filter(None, cells[2:])])


def _require_texts(path: Path, cells: Sequence[str]) -> None:
    """Check that the first row of a table without a header has texts."""
    numbers = [number for number, cell in enumerate(cells, 1) if _NUMBER.fullmatch(cell.strip())]
    if len(cells) > 1 and len(numbers) == len(cells):
        raise DataError(
            f"{path}:1: has ids, not texts; give --train-file the folder that also has the files of texts, such as "
            "collection.tsv and queries.tsv"
        )
    if numbers:
        raise DataError(
            f"{path}:1: has {shown_keys(cells)}: column {numbers[0]} is a number; begin with a header that names the "
            "columns, such as query, positive, negative, label"
        )
