"""Files of texts to encode: a BEIR folder, JSON Lines with ``_id`` and ``text``, TSV, or a text on each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from splade_bench.data.beir import CORPUS, QUERIES, find_file, read_texts
from splade_bench.data.compressed import lines_of, opened, read_some
from splade_bench.data.foreign_files import looks_like_json, require_text
from splade_bench.data.texts_by_id import table_texts
from splade_bench.errors import DataError

_HEAD_BYTES = 2**12
_JSON_NAMES = frozenset((".json", ".jsonl", ".ndjson"))


def text_file(path: Path, *, queries: bool) -> Path:
    """The file of a BEIR folder that has its queries or its documents; of anything else, ``path`` itself."""
    if not path.is_dir():
        return path
    return find_file(path / (QUERIES if queries else CORPUS))


def read_text_file(path: Path) -> Iterator[tuple[str, str]]:
    """Id and text, one by one. A text on a line of its own has the number of its line as its id.

    A file is JSON Lines if its name says so, or if it begins as JSON does. In a ``.tsv`` file, as MS MARCO's, an id and
    a tab are before each text. Blank lines are skipped.

    Raises:
        DataError: the file cannot be read, holds no texts, or a line cannot be used.
    """
    with opened(path) as file:
        head = read_some(path, file, _HEAD_BYTES)
    if not _JSON_NAMES.isdisjoint(path.suffixes) or looks_like_json(head):
        yield from read_texts(path)
        return
    require_text(path, head)
    if ".csv" in path.suffixes:
        raise DataError(f"{path}: is CSV, which is not read here; write JSON Lines with _id and text, or TSV")
    empty = True
    for text_id, text in _table(path) if ".tsv" in path.suffixes else _lines(path):
        yield text_id, text
        empty = False
    if empty:
        raise DataError(f"{path}: holds no texts")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    yield from ((str(number), text.strip()) for number, text in lines_of(path))


def _table(path: Path) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, text_id, text in table_texts(path):
        if text_id in seen:
            raise DataError(f"{path}:{number}: the id {text_id!r} repeats; give each line its own")
        seen.add(text_id)
        yield text_id, text.strip()
