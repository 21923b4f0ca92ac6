"""The pages of a report, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from splade_bench.errors import DataError
from splade_bench.files import not_written
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.report import (
    ablation,
    accelerators,
    article,
    calls,
    company,
    head,
    instruments,
    peers,
    planner,
    reliability,
    several_processes,
    tradeoffs,
)
from splade_bench.report.markdown import PLOTS, page_markdown
from splade_bench.report.page import Page, file_name
from splade_bench.report.readers import group_by
from splade_bench.report.webpage import WEBPAGE_NAME, webpage
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.head import HeadResult
from splade_bench.results.records import CallResult, CellResult, Result
from splade_bench.results.reliability import ReliabilityResult

# Page -> the function that makes it from the results that it shows.
_PAGES: Mapping[str, Callable[[Sequence[Any]], Page]] = {
    tradeoffs.PAGE_NAME: tradeoffs.tradeoffs_page,
    ablation.PAGE_NAME: ablation.ablation_page,
    peers.PAGE_NAME: peers.peers_page,
    company.PAGE_NAME: company.company_page,
    planner.PAGE_NAME: planner.planner_page,
    instruments.PAGE_NAME: instruments.instruments_page,
    calls.PAGE_NAME: calls.calls_page,
    head.PAGE_NAME: head.head_page,
    reliability.PAGE_NAME: reliability.reliability_page,
    several_processes.PAGE_NAME: several_processes.several_processes_page,
    accelerators.PAGE_NAME: accelerators.accelerators_page,
}

# A name in a results file may have half a surrogate pair, as that of a file that is not UTF-8.
_TEXT: Mapping[str, str] = {"encoding": "utf-8", "errors": "backslashreplace"}


def make_pages(results: Sequence[Result]) -> list[Page]:
    """A page for each subject that has results.

    Raises:
        DataError: there is nothing to report, or the results come from different corpora.
    """
    if not results:
        raise DataError("no results to report; run: pytest benchmarks --device cpu")
    cells = [result for result in results if isinstance(result, CellResult)]
    for workload in dict.fromkeys(cell.workload for cell in cells):
        _require_one_corpus(workload, [cell for cell in cells if cell.workload == workload])
    shown: dict[str, list[Any]] = group_by(results, _page_of)
    pages = [make_page(shown[name]) for name, make_page in _PAGES.items() if name in shown]
    if article.PAGE_NAME in shown:
        pages.append(article.article_page(shown[article.PAGE_NAME], cells))
    return pages


def write_pages(pages: Sequence[Page], folder: Path) -> list[Path]:
    """Write each page as ``NAME.md`` into ``folder``, its pictures into ``plots/``, and all as one HTML file.

    Returns the paths of the pages and of the HTML file, which comes last.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for page in pages:
            (folder / f"{page.name}.md").write_text(page_markdown(page), **_TEXT)
            for picture in page.pictures:
                path = folder / PLOTS / f"{file_name(picture.name)}.svg"
                path.parent.mkdir(exist_ok=True)
                path.write_text(picture.svg, **_TEXT)
        (folder / WEBPAGE_NAME).write_text(webpage(pages), **_TEXT)
    except OSError as error:
        raise DataError(f"{folder}: the report {not_written(folder, error)}") from error
    return [*(folder / f"{page.name}.md" for page in pages), folder / WEBPAGE_NAME]


def write_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the pages that ``results`` have rows for; the paths, as of :func:`write_pages`.

    Raises:
        DataError: as :func:`make_pages` and :func:`write_pages`.
    """
    return write_pages(make_pages(results), folder)


def _page_of(result: Result) -> str:
    if isinstance(result, CellResult):
        workload = WORKLOADS.get(result.workload)
        return workload.page if workload else tradeoffs.PAGE_NAME
    if isinstance(result, CallResult):
        return instruments.PAGE_NAME if result.is_calibration else calls.PAGE_NAME
    if isinstance(result, ReliabilityResult):
        is_of_ranks = result.campaign == several_processes.CAMPAIGN
        return several_processes.PAGE_NAME if is_of_ranks else reliability.PAGE_NAME
    if isinstance(result, AcceleratorResult):
        return accelerators.PAGE_NAME
    return head.PAGE_NAME if isinstance(result, HeadResult) else article.PAGE_NAME


def _require_one_corpus(workload: str, results: Sequence[CellResult]) -> None:
    corpora = {result.corpus_sha256 for result in results if result.corpus_sha256}
    if len(corpora) > 1:
        raise DataError(
            f"workload {workload}: the results come from {len(corpora)} different corpora (corpus_sha256) and cannot "
            "be compared; pass files of one corpus to --results"
        )
