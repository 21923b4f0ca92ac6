"""Cells of several processes on the page: beside those of one, but not compared with them."""

from __future__ import annotations

from results import MIB, make_cell_result

from splade_bench.report.document import make_pages
from splade_bench.report.markdown import page_markdown
from splade_bench.report.modes import matched_pairs
from splade_bench.results.records import CellResult

RESULTS = [
    make_cell_result(
        memory_mode=mode,
        processes=processes,
        machine={"threads": 2 // processes, "processor": "Test"},
        wall_time_s=1.0,
        all_ranks_peak_bytes=600 * MIB if processes > 1 else None,
    )
    for processes in (1, 2)
    for mode in ("standard", "memory-efficient")
]


def page_of(results: list[CellResult]) -> str:
    (page,) = make_pages(results)
    return page_markdown(page)


def test_the_number_of_processes_is_a_column_if_there_are_several() -> None:
    page = page_of(RESULTS)

    (header,) = {line for line in page.splitlines() if "peak of all ranks, MiB" in line}
    assert "processes" in [heading.strip() for heading in header.split("|")]
    assert "600" in page
    assert "different numbers of threads" not in page, "two processes with a thread each have two"


def test_a_page_of_one_process_says_nothing_of_them() -> None:
    page = page_of(RESULTS[:2])

    assert "processes |" not in page and "peak of all ranks" not in page


def test_modes_are_compared_at_the_same_number_of_processes() -> None:
    pairs = matched_pairs(RESULTS, "memory-efficient")

    assert [(one.processes, other.processes) for one, other in pairs] == [(1, 1), (2, 2)]
