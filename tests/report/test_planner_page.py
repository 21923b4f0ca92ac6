"""The planner's page pairs each plan with its measurement, and leaves nothing out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_results import rows_of, text_of
from results import MIB, make_cell_result

from splade_bench.report.document import write_report
from splade_bench.report.planner import planned_cells, planner_page
from splade_bench.results.records import CellResult


def make_result(**changes: Any) -> CellResult:
    figures: dict[str, Any] = {
        "workload": "plan-mini-128",
        "baseline_rss_bytes": 400 * MIB,
        "peak_rss_bytes": 600 * MIB,
        "live_peak_bytes": 180 * MIB,
        "planned_baseline_rss_bytes": 410 * MIB,
        "planned_peak_rss_bytes": 606 * MIB,
        "planned_live_peak_bytes": 180 * MIB,
    }
    return make_cell_result(**figures | changes)


def test_each_side_leaves_its_own_runtime_out() -> None:
    (cell,) = planned_cells([make_result()])

    assert (cell.planned_added_bytes, cell.added_bytes) == (196 * MIB, 200 * MIB)
    assert cell.memory_error == pytest.approx(-0.02)
    assert cell.live_error == 0


def test_several_runs_of_a_configuration_count_as_their_median() -> None:
    runs = [make_result(peak_rss_bytes=size * MIB) for size in (600, 610, 900)]

    (cell,) = planned_cells(runs)

    assert (cell.runs, cell.added_bytes) == (3, 210 * MIB)


def test_the_page_says_how_many_hold_and_how_low_the_lowest_is() -> None:
    page = planner_page([make_result(), make_result(batch_size=4, planned_peak_rss_bytes=590 * MIB)])

    assert "live bytes within 0.5%: 2 of 2 (required: all)" in text_of(page)
    assert "memory within 3%: 1 of 2 (required: 90% of them)" in text_of(page)
    assert "lowest prediction: -10.0% (required: at least -6%)" in text_of(page)
    assert [(row["configuration"], row["memory error"]) for row in rows_of(page, "plans")] == [
        ("plan-mini-128-cpu-b8-a1-standard", "-2.0%"),
        ("plan-mini-128-cpu-b4-a1-standard", "-10.0%"),
    ]


def test_a_failed_run_is_listed_and_decides_nothing() -> None:
    page = planner_page([make_result(status="oom", peak_rss_bytes=None)])

    assert text_of(page).endswith("Failed:\n\n- plan-mini-128-cpu-b8-a1-standard: oom")
    assert "required:" not in text_of(page)
    assert [table.name for table in page.tables] == ["conditions"]


def test_the_report_writes_the_page_with_its_picture(tmp_path: Path) -> None:
    written = write_report([make_result()], tmp_path)

    assert [path.name for path in written] == ["PLANNER.md", "report.html"]
    assert "plots/planned-against-measured.svg" in written[0].read_text(encoding="utf-8")
    assert (tmp_path / "plots" / "planned-against-measured.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_a_plan_for_an_accelerator_is_compared_with_reserved_memory() -> None:
    on_cuda = make_result(
        device="cuda",
        device_peak_allocated_bytes=470 * MIB,
        device_peak_reserved_bytes=512 * MIB,
        planned_peak_rss_bytes=520 * MIB,
        planned_baseline_rss_bytes=0,
    )

    (cell,) = planned_cells([on_cuda])

    assert (cell.planned_added_bytes, cell.added_bytes) == (520 * MIB, 512 * MIB)
