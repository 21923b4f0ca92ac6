"""Results and tables as CSV and JSON for other programs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splade_bench.errors import DataError, one_line
from splade_bench.report.page import Page, file_name
from splade_bench.results.records import Result

# As in ``+0.010`` and ``-3.1% (-4.0% to +1.0%)``.
_FIGURE = re.compile(r"[+-][\d.]+%?( \([+-]?[\d.]+%? to [+-]?[\d.]+%?\))?")


def to_csv(results: Iterable[Result]) -> str:
    """All results as one table.

    Columns have the names of the results file. Nested fields have dotted names (``metrics.mrr@10``,
    ``machine.processor``). Lists (losses, timelines, allocation sites) are left out. Fields without a value are empty.
    """
    rows = [_flat(asdict(result)) for result in results]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_tables(pages: Sequence[Page], folder: Path) -> list[Path]:
    """Write each table of the pages as ``PAGE/TABLE.csv``, and all tables as ``tables.json``; returns the paths.

    Cells have the text that the pages show.

    Raises:
        DataError: the folder cannot be written to.
    """
    written: dict[Path, str] = {}
    for page in pages:
        for table in page.tables:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(table.headings)
            writer.writerows([_safe(one_line(cell)) for cell in row] for row in table.rows)
            written[folder / page.name / f"{file_name(table.name)}.csv"] = text.getvalue()
    written[folder / "tables.json"] = json.dumps(tables_record(pages), indent=1, ensure_ascii=False) + "\n"
    try:
        for path, content in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--tables {folder}: cannot be written to: {error.strerror}") from error
    return list(written)


def tables_record(pages: Sequence[Page]) -> dict[str, Any]:
    """Page -> table -> headings and rows."""
    return {
        page.name: {
            table.name: {"headings": list(table.headings), "rows": [list(row) for row in table.rows]}
            for table in page.tables
        }
        for page in pages
    }


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = _safe(value)
    return flat


def _safe(value: Any) -> Any:
    """Adds an apostrophe to text that a spreadsheet would run as a formula; signed numbers stay."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not _FIGURE.fullmatch(value):
        return f"'{value}"
    return value
