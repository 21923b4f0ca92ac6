"""Tables of the report in other documents: whoever edits the prose never types a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from splade_bench.errors import DataError
from splade_bench.report.markdown import table_markdown
from splade_bench.report.page import Page

_OPENING = re.compile(r"^<!-- splade-bench table: (?P<name>\S+) -->$")
_CLOSING = "<!-- /splade-bench table -->"


def update_document(path: Path, pages: Sequence[Page]) -> bool:
    """Put the tables that ``path`` asks for between their markers; whether that changed the file.

    A place is ``<!-- splade-bench table: PAGE/TABLE -->`` and ``<!-- /splade-bench table -->``, each on a line of its
    own. One whose page is not among ``pages`` keeps what it has.

    Raises:
        DataError: the file cannot be read or written, a place is not closed, or its page has no such table.
    """
    try:
        before = path.read_text(encoding="utf-8")
        after = _filled(before, path, pages)
        if after != before:
            path.write_text(after, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--update {path}: {error}") from error
    return after != before


def _filled(text: str, path: Path, pages: Sequence[Page]) -> str:
    tables = {f"{page.name}/{table.name}": table for page in pages for table in page.tables}
    known = {page.name for page in pages}
    kept: list[str] = []
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        kept.append(line)
        opening = _OPENING.match(line)
        if not opening:
            continue
        name = opening["name"]
        old = []
        for _, inner in lines:
            if inner == _CLOSING:
                break
            old.append(inner)
        else:
            raise DataError(f"{path}:{number}: the table {name} is not closed with {_CLOSING}")
        if name.partition("/")[0] not in known:
            kept += old
        elif name in tables:
            kept += ["", table_markdown(tables[name]), ""]
        else:
            page_name = name.partition("/")[0]
            has = ", ".join(table.name for page in pages if page.name == page_name for table in page.tables)
            raise DataError(f"{path}:{number}: the page {page_name} has no table {name.partition('/')[2]}, but {has}")
        kept.append(_CLOSING)
    return "\n".join(kept)
