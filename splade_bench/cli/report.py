"""``splade-bench report``: pages, pictures, tables and one HTML file from recorded results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from splade_bench.cli.arguments import parse, show
from splade_bench.errors import DataError
from splade_bench.files import not_written
from splade_bench.report.document import make_pages, write_pages
from splade_bench.report.export import to_csv, write_tables
from splade_bench.report.insertions import update_document
from splade_bench.report.page import Page
from splade_bench.report.provenance import changed_since
from splade_bench.report.summary import COMMENT_BYTES, GITHUB_SUMMARY_BYTES, summary
from splade_bench.results.records import Result, read_results

logger = logging.getLogger(__name__)
# A repeated flag adds to the earlier one.
_Paths = Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportCommand:
    """Write a page for each subject that has recorded results.

    Subjects: the memory modes compared, and the article's claims; single techniques; peers; the planner; the
    instruments; measured calls; the head; the article's failure; campaigns against a training.

    Exit codes:
      0  done
      2  usage error or bad file
    """

    results: _Paths = ()
    """Results files, or folders of them. Default: the newest file in the folder results of --output."""
    output: Path = Path("reports")
    """Folder for the pages, their pictures in plots/, and report.html, which has all of them in one file."""
    tables: Path | None = None
    """Folder for the tables: one CSV file for each table, and tables.json with all of them."""
    csv: Path | None = None
    """CSV file for all results as one table."""
    github_summary: Path | None = None
    """Append a summary to this file, such as $GITHUB_STEP_SUMMARY. The worst cells come first."""
    comment: Path | None = None
    """Write a shorter form of this summary to this file: it fits in a comment on a pull request."""
    update: _Paths = ()
    """Update the tables in these documents. A folder means all .md files in it. A table is between
    <!-- splade-bench table: PAGE/TABLE --> and <!-- /splade-bench table -->."""
    json: bool = False
    """Print one JSON object to standard output."""


def run(arguments: Sequence[str]) -> int:
    """Write the files and print their paths; returns the exit code."""
    command = parse(ReportCommand, arguments, verb="report")
    paths = _files("--results", command.results, "*.jsonl") or [_newest(command.output / "results")]
    results = read_results(paths)
    pages = make_pages(results)
    written = [*write_pages(pages, command.output), *_write_others(command, results, pages)]
    reports = [str(path) for path in written]
    record = {"reports": reports, "results": [str(path) for path in paths], "cells": len(results)}
    if changed := changed_since(results):
        logger.info(changed)
    show(record, "\n".join(reports), as_json=command.json)
    return 0


def _write_others(command: ReportCommand, results: Sequence[Result], pages: Sequence[Page]) -> list[Path]:
    """Write everything but the pages; returns the paths that were written or changed."""
    written = []
    if command.tables is not None:
        written += write_tables(pages, command.tables)
    if command.csv is not None:
        written.append(_write("--csv", command.csv, to_csv(results)))
    if command.github_summary is not None:
        # Other steps of the job write to this file too.
        text = summary(results, pages, limit_bytes=GITHUB_SUMMARY_BYTES)
        written.append(_write("--github-summary", command.github_summary, text, append=True))
    if command.comment is not None:
        written.append(_write("--comment", command.comment, summary(results, pages, limit_bytes=COMMENT_BYTES)))
    documents = _files("--update", command.update, "*.md")
    return [*written, *(path for path in documents if update_document(path, pages))]


def _files(flag: str, paths: Sequence[Sequence[Path]], pattern: str) -> list[Path]:
    """The files among the paths, and those in the folders among them."""
    files: list[Path] = []
    for path in chain.from_iterable(paths):
        inside = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{flag} {path}: the folder has no {pattern}")
        files += inside
    return files


def _write(flag: str, path: Path, text: str, *, append: bool = False) -> Path:
    try:
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DataError(f"{flag} {path}: {not_written(path, error)}") from error
    return path


def _newest(folder: Path) -> Path:
    """The results file with the latest name. Files of a sweep are named after its time and come before all others."""
    paths = sorted(folder.glob("[0-9]*T[0-9]*Z-*.jsonl")) or sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder}: no results; run: pytest benchmarks --device cpu")
    return paths[-1]
