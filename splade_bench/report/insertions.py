"""Tables of the report inside other documents, so that nobody types a figure there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from splade_bench.errors import DataError
from splade_bench.report.markdown import markdown
from splade_bench.report.page import Page

_CLOSING = "<!-- /splade-bench table -->"
_PLACE = re.compile(
    r"^(?P<opening><!-- splade-bench table: (?P<page>[^/\s]+)/?(?P<table>\S*) -->(?P<ending>\r?\n))"
    rf".*?(?P<closing>^{_CLOSING}(?=\r?$)|\Z)",
    re.MULTILINE | re.DOTALL,
)


def update_document(path: Path, pages: Sequence[Page]) -> bool:
    """Write the tables that ``path`` asks for between their markers; returns whether that changed the file.

    The markers are the lines ``<!-- splade-bench table: PAGE/TABLE -->`` and ``<!-- /splade-bench table -->``. A place
    keeps its content if its page is not among ``pages``. The file keeps its line endings; in a file with both kinds,
    tables get the one of their opening marker.

    Raises:
        DataError: the file cannot be read or written, a closing marker is missing, or the page has no such table.
    """
    try:
        before = path.read_bytes().decode()  # line endings as they are
        after = _PLACE.sub(lambda place: _filled(place, path, pages), before)
        if after != before:
            path.write_bytes(after.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--update {path}: {error}") from error
    return after != before


def _filled(place: re.Match[str], path: Path, pages: Sequence[Page]) -> str:
    number = place.string.count("\n", 0, place.start()) + 1
    if not place["closing"]:
        raise DataError(f"{path}:{number}: the table {place['page']}/{place['table']} is not closed with {_CLOSING}")
    page = next((page for page in pages if page.name == place["page"]), None)
    if page is None:
        return place[0]
    tables = {table.name: table for table in page.tables}
    if place["table"] not in tables:
        raise DataError(
            f"{path}:{number}: the page {page.name} has no table {place['table']}; it has {', '.join(tables)}"
        )
    table = tables[place["table"]]
    text = f"\n{markdown(table.headings, table.rows)}\n\n".replace("\n", place["ending"])
    return f"{place['opening']}{text}{place['closing']}"
