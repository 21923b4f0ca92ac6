"""``splade-bench report``: recorded results in, the trade-off page and its plots out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splade_bench.cli.arguments import parse, print_json
from splade_bench.errors import DataError
from splade_bench.report.document import write_report
from splade_bench.report.export import to_csv
from splade_bench.results import read_results


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportCommand:
    """Write the pages that recorded results have rows for: trade-offs, techniques one by one, peers.

    Exit codes: 0 done, 2 usage or a bad file.
    """

    results: tuple[Path, ...] = ()
    """Results files; by default the newest in OUTPUT/results."""
    output: Path = Path("reports")
    """Folder to write the pages and plots/ into."""
    csv: Path | None = None
    """File to write all results to as one table."""
    json: bool = False
    """Print one JSON object on standard output."""


def run(arguments: Sequence[str]) -> int:
    """Write the report and print its path; the exit code."""
    command = parse(ReportCommand, arguments, verb="report")
    paths = command.results or (_newest(command.output / "results"),)
    results = read_results(paths)
    pages = write_report(results, command.output)
    if command.csv is not None:
        command.csv.write_text(to_csv(results), encoding="utf-8")
    if command.json:
        print_json(
            {
                "reports": [str(page) for page in pages],
                "results": [str(path) for path in paths],
                "cells": len(results),
            }
        )
    else:
        print(*pages, sep="\n")
    return 0


def _newest(folder: Path) -> Path:
    """The results file whose name sorts last among those that a sweep named: after the time of their run."""
    paths = sorted(folder.glob("[0-9]*T[0-9]*Z-*.jsonl")) or sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder}: holds no results; run: pytest benchmarks --device cpu")
    return paths[-1]
