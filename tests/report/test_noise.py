"""Runs beside other processes, or in a slow minute, are marked on the pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from report_results import MACHINE, make_result, row_of, rows_of, text_of
from results import make_call_result

from splade_bench.report.calls import calls_page
from splade_bench.report.noise import HEADING, in_bad_company, noise_columns
from splade_bench.report.tradeoffs import tradeoffs_page
from splade_bench.results.records import CellResult


def rated(*rates: float | None, **changes: Any) -> list[CellResult]:
    return [make_result(round=number, gemm_flops_per_s=rate, **changes) for number, rate in enumerate(rates, 1)]


@pytest.mark.parametrize(
    ("others_s", "wall_s", "busy", "marked"),
    [
        (1.9, 20.0, 0, False),
        (2.1, 20.0, 0, True),
        (21.9, 20.0, 1, False),  # the cell asked for one busy process
        (22.1, 20.0, 1, True),
        (0.04, 0.1, 0, False),  # a few ticks of the system's clock
        (0.06, 0.1, 0, True),
        (None, 20.0, 0, False),
        (5.0, None, 0, False),
    ],
)
def test_a_run_beside_other_processes_is_in_bad_company(
    others_s: float | None, wall_s: float | None, busy: int, marked: bool
) -> None:
    run = make_result(others_cpu_time_s=others_s, wall_time_s=wall_s, busy_processes=busy)  # type: ignore[arg-type]

    assert in_bad_company([run]) == [run] * marked


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, True),
        ({"machine": {**MACHINE, "logical_cores": 64}}, False),
        ({"machine": {}}, True),
        ({"child_processes": 2}, False),  # they may be the others
        ({"child_processes": 0}, True),
    ],
)
def test_a_share_of_the_cores_is_company_unless_the_run_has_children(changes: dict[str, Any], marked: bool) -> None:
    run = make_call_result(**({"machine": MACHINE, "wall_time_s": 20.0, "others_cpu_time_s": 2.1} | changes))

    assert in_bad_company([run]) == [run] * marked


def test_calls_with_other_rates_are_not_compared() -> None:
    runs = [make_call_result(gemm_flops_per_s=rate) for rate in (100.0, 101.0, 102.0, 50.0)]

    assert in_bad_company(runs) == []


def test_a_run_in_a_slow_minute_is_in_bad_company() -> None:
    runs = rated(100.0, 104.0, 84.0, 101.0)

    assert in_bad_company(runs) == [runs[2]]
    assert in_bad_company(rated(100.0, 10.0, None)) == [], "two rates do not say which of them is the usual one"


@pytest.mark.parametrize("changes", [{"workload": "base-512"}, {"machine": {**MACHINE, "threads": 1}}])
def test_rates_of_other_products_and_machines_are_not_compared(changes: dict[str, Any]) -> None:
    runs: Sequence[CellResult] = [*rated(100.0, 100.0, 100.0), *rated(50.0, 50.0, 50.0, **changes)]

    assert in_bad_company(runs) == []


def test_a_page_counts_the_runs_and_marks_their_rows() -> None:
    quiet, loud = make_result(others_cpu_time_s=0.0), make_result("memory-efficient", others_cpu_time_s=15.0)

    page = tradeoffs_page([quiet, loud])

    assert "**1 of 2 results were measured in bad company" in text_of(page)
    assert row_of(page, "cells-tiny", mode="memory-efficient")[HEADING] == "1 of 1"
    assert row_of(page, "cells-tiny", mode="standard")[HEADING] == "—"
    assert HEADING not in text_of(tradeoffs_page([quiet])) + str(rows_of(tradeoffs_page([quiet]), "cells-tiny"))


def test_a_measured_call_is_marked_too() -> None:
    page = calls_page([make_call_result(wall_time_s=1.0, others_cpu_time_s=0.5)])

    assert [row[HEADING] for row in rows_of(page, "calls")] == ["1 of 1"]


def test_rows_without_noise_have_no_column() -> None:
    runs = rated(100.0, 100.0, 100.0)

    assert noise_columns([runs], lambda row: row) == []
