"""Texts that are found by their ids, kept on the disk while a file of ids is read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from splade_bench.data.compressed import lines_of
from splade_bench.data.foreign_files import is_spread_over_lines
from splade_bench.errors import DataError, error_line

_ID_KEYS = ("_id", "qid", "doc_id", "query_id", "docid", "pid", "id")
_TEXT_FORM = '{"_id": "...", "text": "..."}'
_CACHE_KIB = 32 * 1024


class TextsById:
    """Id -> text, in a temporary database. Memory: 32 MiB; on the disk, a copy of the texts.

    It has no name and is gone with the process. Errors of the disk are :class:`sqlite3.Error`.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = MEMORY", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE texts (id TEXT, line INTEGER, text TEXT)")
        self._database.execute("BEGIN")  # one transaction for all texts

    def add(self, text_id: str, line: int, text: str) -> None:
        """Keep a text, with the line that it is from."""
        self._database.execute("INSERT INTO texts VALUES (?, ?, ?)", (text_id, line, text))

    def index(self) -> tuple[str, int, int] | None:
        """Make :meth:`get` possible, after all texts were added.

        It is made at once, which is many times faster than text by text. If an id repeats, the result is that id and
        the lines of its first two texts.
        """
        self._database.execute("COMMIT")
        try:
            self._database.execute("CREATE UNIQUE INDEX ids ON texts (id)")
        except sqlite3.IntegrityError:
            lines = self._database.execute(
                "SELECT id, line FROM texts WHERE id = (SELECT id FROM texts GROUP BY id HAVING COUNT(*) > 1 LIMIT 1) "
                "ORDER BY rowid LIMIT 2"
            )
            (text_id, first), (_, second) = lines.fetchall()
            return str(text_id), int(first), int(second)
        return None

    def get(self, text_id: str) -> str | None:
        found = self._database.execute("SELECT text FROM texts WHERE id = ?", (text_id,)).fetchone()
        return None if found is None else str(found[0])

    def groups(self) -> Iterator[tuple[str, int, list[str]]]:
        """Each id with the line of its first text, and all its texts; in the order in which they were added."""
        self._database.execute("CREATE INDEX IF NOT EXISTS ids ON texts (id)")  # without it, each id reads all rows
        rows = self._database.execute(
            "SELECT id, line, text FROM texts JOIN (SELECT id, MIN(rowid) AS first FROM texts GROUP BY id) USING (id) "
            "ORDER BY first, texts.rowid"
        )
        for text_id, group in groupby(rows, key=itemgetter(0)):
            found = list(group)
            yield text_id, found[0][1], [text for _, _, text in found]

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()


def objects_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and content of each object of a JSON Lines file.

    Raises:
        DataError: as :func:`lines_of`, or a line is not a JSON object.
    """
    for number, line in lines_of(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and is_spread_over_lines(line):
                raise DataError(f"{path}:{number}: JSON over several lines; write it on one, as jq -c does") from error
            raise DataError(f"{path}:{number}: is not JSON: {error_line(error)}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: is not a JSON object; write each line as {{...}}")
        yield number, record


def read_texts(path: Path) -> TextsById:
    """The texts of a file by their ids: JSON Lines with an id and a text, or TSV.

    A title comes before its text.

    Raises:
        DataError: the file cannot be read, a line has no id or no text, or an id repeats.
    """
    texts = TextsById()
    is_table = ".tsv" in path.suffixes
    for number, text_id, text in table_texts(path) if is_table else _objects(path):
        texts.add(text_id, number, text)
    if repeated := texts.index():
        text_id, first, second = repeated
        raise DataError(f"{path}:{second}: the id {text_id!r} is that of line {first} too; give each its own")
    return texts


def id_of(value: Any) -> str | None:
    """An id as text, so that 7 and "7" are the same; None for what cannot be one."""
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    # The database keeps UTF-8 only, as of texts.
    return str(value).strip().encode(errors="replace").decode() or None if is_id else None


def table_texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, id and text of each line of a TSV file.

    Raises:
        DataError: as :func:`lines_of`, or a line has no tab.
    """
    for number, line in lines_of(path):
        text_id, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{path}:{number}: has no tab; write an id, a tab and a text in each line")
        yield number, text_id.strip(), text


def _objects(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, record in objects_of(path):
        text_id = next((found for key in _ID_KEYS if (found := id_of(record.get(key)))), None)
        text, title = record.get("text"), record.get("title") or ""
        if text_id is None or not isinstance(text, str) or not isinstance(title, str):
            raise DataError(f"{path}:{number}: has no id or no text; write each line as {_TEXT_FORM}")
        # The database keeps UTF-8 only: half a pair of a broken \\u escape becomes a question mark.
        yield number, text_id, f"{title} {text}".strip().encode(errors="replace").decode()
