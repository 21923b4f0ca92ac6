"""The committed pages are those of the committed results, to the byte."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.report.document import make_pages
from splade_bench.report.insertions import update_document
from splade_bench.report.markdown import page_markdown
from splade_bench.report.page import Page
from splade_bench.results.records import read_results

ROOT = Path(__file__).parents[2]
# The names of results files that pytest chooses itself.
RUN_HERE = re.compile(r"\d{8}T\d{6}Z-")
AGAIN = "splade-bench report --results reports/results --update README.md docs benchmarks"
AGAIN_ON_THE_H100 = "splade-bench report --results reports/h100/results --output reports/h100"
H100 = ROOT / "reports" / "h100"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


@pytest.fixture(scope="module")
def pages() -> Sequence[Page]:
    paths = sorted((ROOT / "reports" / "results").glob("*.jsonl"))
    own = [path.name for path in paths if RUN_HERE.match(path.name)]
    if own:
        pytest.skip(f"reports/ has the report of a run in this checkout: {own[-1]}")
    return make_pages(read_results(paths))


def test_the_pages_are_those_of_the_results(pages: Sequence[Page]) -> None:
    assert {page.name for page in pages} >= {"TRADEOFFS", "ABLATION", "PEERS", "HEAD", "INSTRUMENTS"}
    for page in pages:
        committed = (ROOT / "reports" / f"{page.name}.md").read_text(encoding="utf-8")
        assert committed == page_markdown(page), f"reports/{page.name}.md is not of these results; run: {AGAIN}"


def test_the_pages_of_the_h100_are_those_of_its_results() -> None:
    pages = make_pages(read_results(sorted((H100 / "results").glob("*.jsonl"))))

    assert {page.name for page in pages} == {"TRADEOFFS", "PLANNER"}
    for page in pages:
        committed = (H100 / f"{page.name}.md").read_text(encoding="utf-8")
        assert committed == page_markdown(page), f"reports/h100/{page.name}.md is old; run: {AGAIN_ON_THE_H100}"
    shown = {f"{picture.name}.svg" for page in pages for picture in page.pictures}
    assert {path.name for path in (H100 / "plots").iterdir()} == shown


def test_every_picture_of_a_page_is_there(pages: Sequence[Page]) -> None:
    shown = {f"{picture.name}.svg" for page in pages for picture in page.pictures}

    assert {path.name for path in (ROOT / "reports" / "plots").iterdir()} == shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_a_document_are_those_of_the_report(
    document: Path, pages: Sequence[Page], tmp_path: Path
) -> None:
    copy = tmp_path / document.name
    copy.write_bytes(document.read_bytes())

    assert not update_document(copy, pages), f"{document.name} has other tables than the report; run: {AGAIN}"
