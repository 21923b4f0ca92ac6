"""The page about the instruments judges by the stated limits, and marks figures that were not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_results import row_of, rows_of
from results import MIB, make_call_result, make_cell_result

from splade_bench.report.document import write_report
from splade_bench.report.instruments import instruments_page
from splade_bench.results.records import CellResult


def make_run(pinned_mib: float, **changes: Any) -> CellResult:
    figures: dict[str, Any] = {
        "workload": "repeatability",
        "baseline_rss_bytes": 400 * MIB,
        "peak_rss_bytes": 1000 * MIB,
        "pinned_baseline_rss_bytes": 300 * MIB,
        "pinned_peak_rss_bytes": round((300 + pinned_mib) * MIB),
    }
    return make_cell_result(**figures | changes)


@pytest.mark.parametrize(
    ("mib", "verdict"),
    [([600, 606], "holds"), ([600, 607], "DOES NOT HOLD"), ([50, 52], "holds"), ([50, 52.5], "DOES NOT HOLD")],
)
def test_a_spread_may_be_one_percent_or_two_mib(mib: list[float], verdict: str) -> None:
    page = instruments_page([make_run(value, round=number) for number, value in enumerate(mib)])

    rows = {row["figure"]: row for row in rows_of(page, "repeatability")}
    assert set(rows) == {"RSS", "pinned"}  # the others were not measured
    assert rows["pinned"]["verdict"] == verdict
    assert rows["RSS"]["verdict"] == "reported"


def test_a_calibration_shows_the_error_of_each_probe() -> None:
    call = make_call_result(
        "calibration touch_block 67108864 0.1",
        value=64 * MIB,
        baseline_rss_bytes=10 * MIB,
        peak_rss_bytes=75 * MIB,
        memray_peak_bytes=64 * MIB,
    )

    _, table = instruments_page([call]).tables

    assert table.rows == [["touch_block", "64", "ok", "+1.562%", "—", "—", "+0.000%", "—"]]


def test_limits_show_how_every_run_ended() -> None:
    runs = [
        make_run(1, workload="memory-limit", memory_limit_bytes=1024 * MIB, status=status, phase="forward", **asked)
        for status, asked in (
            ("oom", {"failed_allocation_bytes": 60 * MIB}),
            ("oom", {"failed_allocation_bytes": 90 * MIB}),
            ("killed", {}),
        )
    ]
    unlimited = make_run(1, workload="memory-limit", round=7)

    page = instruments_page([unlimited, *runs])

    assert row_of(page, "limits", limit="none")["runs that ended"] == "1 ok"
    limited = row_of(page, "limits", limit="1024 MiB")
    assert limited["runs that ended"] == "1 killed, 2 oom"
    assert limited["in phase"] == "3 forward"
    assert limited["failed allocation, MiB"] == "60 to 90"


def test_the_page_is_written_from_a_file_with_other_results_too(tmp_path: Path) -> None:
    foreign = make_call_result("tests/test_x.py::test_it: touch")

    pages = write_report([make_run(100), foreign], tmp_path)

    assert [page.name for page in pages] == ["INSTRUMENTS.md", "CALLS.md", "report.html"]
    assert "test_x" not in pages[0].read_text(encoding="utf-8")
