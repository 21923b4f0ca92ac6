"""The page about the instruments judges by the stated bands, and shows what was not measured as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.report.document import write_report
from splade_bench.report.instruments import instruments_page
from splade_bench.report.markdown import page_markdown
from splade_bench.report.probes import PROBES
from splade_bench.results.records import CallResult, CellResult, Measurement

MIB = 2**20
CELL = Cell(workload="repeatability", device="cpu", batch_size=4, gradient_accumulation_steps=1, memory_mode="standard")
PINNED = next(probe for probe in PROBES if probe.name == "pinned")


def instruments_text(results: Sequence[Measurement]) -> str:
    return page_markdown(instruments_page(results))


def make_run(pinned_mib: float, **changes: Any) -> CellResult:
    result = CellResult.of_cell(
        CELL,
        status="ok",
        baseline_rss_bytes=400 * MIB,
        peak_rss_bytes=1000 * MIB,
        pinned_baseline_rss_bytes=300 * MIB,
        pinned_peak_rss_bytes=round((300 + pinned_mib) * MIB),
    )
    return replace(result, **changes)


def cells_of(page: str, start: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.mark.parametrize(
    ("mib", "verdict"),
    [([600, 606], "holds"), ([600, 607], "DOES NOT HOLD"), ([50, 52], "holds"), ([50, 52.5], "DOES NOT HOLD")],
)
def test_a_spread_may_be_one_percent_or_two_mib(mib: list[float], verdict: str) -> None:
    page = instruments_text([make_run(value, round=number) for number, value in enumerate(mib)])

    row = next(line for line in page.splitlines() if "| pinned" in line)
    assert row.split("|")[-2].strip() == verdict
    assert "| live tensors" not in page  # not measured, so no row


def test_a_calibration_shows_the_error_of_each_probe() -> None:
    call = CallResult(
        name="calibration touch_block 67108864 0.1",
        status="ok",
        value=64 * MIB,
        baseline_rss_bytes=10 * MIB,
        peak_rss_bytes=75 * MIB,
        memray_peak_bytes=64 * MIB,
    )

    page = instruments_text([call])

    assert cells_of(page, "| touch") == [
        *[r"touch\_block", "64", "ok"],
        *["+1.562%", "—", "—", "+0.000%", "—"],
    ]


def test_limits_show_how_every_run_ended() -> None:
    runs = [
        make_run(1, workload="memory-limit", memory_limit_bytes=1024 * MIB, status=status, phase="forward", **asked)
        for status, asked in (
            ("oom", {"failed_allocation_bytes": 60 * MIB}),
            ("oom", {"failed_allocation_bytes": 90 * MIB}),
            ("killed", {}),
        )
    ]
    alone = make_run(1, workload="memory-limit", cell_id="alone", round=7)

    page = instruments_text([alone, *runs])

    assert cells_of(page, "| alone")[1:3] == ["none", "1 ok"]
    assert "| 1 killed, 2 oom" in page
    assert "| 3 forward" in page
    assert "| 60 to 90" in page


def test_the_page_is_written_from_a_file_with_other_results_too(tmp_path: Path) -> None:
    foreign = CallResult(name="tests/test_x.py::test_it: touch", status="ok")

    pages = write_report([make_run(100), foreign], tmp_path)

    assert [page.name for page in pages] == ["INSTRUMENTS.md", "CALLS.md", "report.html"]
    assert "test_x" not in pages[0].read_text(encoding="utf-8")
