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
from splade_bench.files import not_written
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
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return _csv(columns, [[row.get(name) for name in columns] for row in rows])


def write_tables(pages: Sequence[Page], folder: Path) -> list[Path]:
    """Write each table of the pages as ``PAGE/TABLE.csv``, and all tables as ``tables.json``; returns the paths.

    Cells have the text that the pages show. The JSON has page -> table -> headings and rows.

    Raises:
        DataError: the folder cannot be written to.
    """
    written: dict[Path, str] = {}
    record: dict[str, dict[str, Any]] = {}
    for page in pages:
        record[page.name] = {}
        for table in page.tables:
            rows = [[one_line(cell) for cell in row] for row in table.rows]
            written[folder / page.name / f"{file_name(table.name)}.csv"] = _csv(table.headings, rows)
            record[page.name][table.name] = {"headings": table.headings, "rows": table.rows}
    written[folder / "tables.json"] = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    try:
        for path, content in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"--tables {folder}: {not_written(folder, error)}") from error
    return list(written)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = value
    return flat


def _csv(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """Adds an apostrophe to text that a spreadsheet would run as a formula; signed numbers stay."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not _FIGURE.fullmatch(value):
        return f"'{value}"
    return value
