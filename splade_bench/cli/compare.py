"""``splade-bench compare``: a table of the changes between two results files, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from splade_bench.cli.arguments import parse, show
from splade_bench.errors import DataError, one_line
from splade_bench.gate.comparison import Change, compare
from splade_bench.report.formatting import MISSING
from splade_bench.report.markdown import markdown
from splade_bench.results.records import read_results


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareCommand:
    """Show how the figures of the same cells differ between two results files, worst change first.

    It gives no verdict.

    Exit codes:
      0  done
      2  usage error or bad file
      3  no cell is in both files
    """

    before: Annotated[Path, tyro.conf.Positional]
    """Results file with the earlier figures."""
    after: Annotated[Path, tyro.conf.Positional]
    """Results file with the later figures."""
    json: bool = False
    """Print one JSON object to standard output."""


NOTHING_TO_COMPARE = 3


def run(arguments: Sequence[str]) -> int:
    """Print the comparison; the exit code."""
    command = parse(CompareCommand, arguments, verb="compare")
    before, after = read_results([command.before]), read_results([command.after])
    for path, results in ((command.before, before), (command.after, after)):
        if not results:
            raise DataError(f"{path}: has no results")
    comparison = compare(before, after)
    names = ("cell_id", "figure", "before", "after", "change_ratio")
    rows = [(c.cell, c.figure.name, c.before, c.after, c.ratio) for c in comparison.changes]
    record = {
        "changes": [dict(zip(names, row, strict=True)) for row in rows],
        "differences": comparison.differences,
    }
    lines = [one_line(f"- {difference}") for difference in comparison.differences]
    if comparison.changes:
        lines.insert(0, _change_table(comparison.changes))
    show(record, "\n".join(lines), as_json=command.json)
    return 0 if comparison.changes else NOTHING_TO_COMPARE


def _change_table(changes: Iterable[Change]) -> str:
    rows = [
        [
            change.cell,
            change.figure.name,
            change.figure.text(change.before),
            change.figure.text(change.after),
            f"{change.ratio - 1:+.1%}" if change.ratio < float("inf") else MISSING,
        ]
        for change in changes
    ]
    return markdown(["cell", "figure", "before", "after", "change"], rows)
