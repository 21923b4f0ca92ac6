"""The planner's page pairs what was planned with what was measured, and leaves nothing out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.report.document import write_report
from splade_bench.report.markdown import page_markdown
from splade_bench.report.planner import planned_cells, planner_page
from splade_bench.results.records import CellResult

MIB = 2**20
CELL = Cell(workload="plan-mini-128", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")


def planner_text(results: Sequence[CellResult]) -> str:
    return page_markdown(planner_page(results))


def make_result(cell: Cell = CELL, **changes: Any) -> CellResult:
    figures: dict[str, Any] = {
        "baseline_rss_bytes": 400 * MIB,
        "peak_rss_bytes": 600 * MIB,
        "live_peak_bytes": 180 * MIB,
        "planned_baseline_rss_bytes": 410 * MIB,
        "planned_peak_rss_bytes": 606 * MIB,
        "planned_live_peak_bytes": 180 * MIB,
    }
    return replace(CellResult.of_cell(cell, status="ok", **figures), **changes)


def test_each_side_leaves_its_own_runtime_out() -> None:
    (cell,) = planned_cells([make_result()])

    assert (cell.planned_added_bytes, cell.added_bytes) == (196 * MIB, 200 * MIB)
    assert cell.rss_error == pytest.approx(-0.02)
    assert cell.live_error == 0


def test_several_runs_of_a_configuration_count_as_their_median() -> None:
    runs = [make_result(peak_rss_bytes=size * MIB) for size in (600, 610, 900)]

    (cell,) = planned_cells(runs)

    assert (cell.runs, cell.added_bytes) == (3, 210 * MIB)


def test_the_page_says_how_many_hold_and_how_low_the_lowest_is() -> None:
    other = replace(CELL, batch_size=4)

    page = planner_text([make_result(), make_result(other, planned_peak_rss_bytes=590 * MIB)])

    assert "live bytes within 0.5%: 2 of 2" in page
    assert "resident memory within 3%: 1 of 2" in page
    assert "lowest prediction: -10.0%" in page
    assert page.count("| plan-mini-128-cpu-b") == 2


def test_what_did_not_run_is_listed_and_judges_nothing() -> None:
    page = planner_text([make_result(status="oom", peak_rss_bytes=None)])

    assert "Not measured to the end:" in page
    assert "plan-mini-128-cpu-b8-a1-standard: oom" in page
    assert "(wanted:" not in page


def test_the_report_writes_the_page_with_its_picture(tmp_path: Path) -> None:
    written = write_report([make_result()], tmp_path)

    assert [path.name for path in written] == ["PLANNER.md", "report.html"]
    assert "plots/planned-against-measured.svg" in written[0].read_text(encoding="utf-8")
    assert (tmp_path / "plots" / "planned-against-measured.svg").read_text(encoding="utf-8").count("<svg") == 1
