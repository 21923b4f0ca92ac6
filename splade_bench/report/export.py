"""Results as CSV: a row a result, a column a figure that is one number or text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from splade_bench.results import Result


def to_csv(results: Iterable[Result]) -> str:
    """All results in one table.

    Names are those of the results file; what is nested there has a dotted name here (``metrics.mrr@10``,
    ``machine.processor``). Lists (losses, timelines, allocation sites) are left out. What was not measured is empty.
    """
    rows = [_flat(asdict(result)) for result in results]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = _safe(value)
    return flat


def _safe(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
