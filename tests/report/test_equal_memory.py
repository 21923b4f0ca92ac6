"""Limits and curves of what fit chooses for the memory of a peer."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from report_results import MACHINE, row_of, rows_of, text_of
from results import MIB, make_cell_result

from splade_bench.grid.cell import PEER_MODE
from splade_bench.memory_modes import memory_mode
from splade_bench.report.bounds import BOUNDS, FIT, Bound, direct_gemm_share, over_budget
from splade_bench.report.peers import peers_page
from splade_bench.results.figures import step_time_s
from splade_bench.results.records import CellResult

TIME = Bound("mini-256", 8, "time", step_time_s, 0.4, mode=FIT, peer="SpladeLoss", memory_of="SpladeLoss")
BUDGET = Bound("mini-256", 8, "largest peak RSS ÷ budget", over_budget, 1.0, mode=FIT, over_runs=max)
SETTINGS = asdict(replace(memory_mode("memory-efficient"), mini_batch_tokens=1024, selective_recomputation=False))


def make_run(trainer: str, *, peak_mib: float, time_s: float, **changes: Any) -> CellResult:
    return make_cell_result(
        workload="mini-256",
        memory_mode="memory-efficient" if trainer == "splade-bench" else PEER_MODE,
        trainer=trainer,
        step_time_s=time_s,
        peak_rss_bytes=int(peak_mib * MIB),
        baseline_rss_bytes=400 * MIB,
        machine=MACHINE,
        **changes,
    )


def make_fit(budget_mib: int, *, time_s: float, peak_mib: float = 500, **changes: Any) -> CellResult:
    planned = {"memory_settings": SETTINGS, "planned_peak_rss_bytes": 480 * MIB}
    budget_bytes = budget_mib * MIB
    return make_run(
        "splade-bench",
        peak_mib=peak_mib,
        time_s=time_s,
        **{"memory_budget_bytes": budget_bytes} | planned | changes,
    )


@pytest.fixture
def results() -> list[CellResult]:
    """SpladeLoss took 4206.7 MiB in the scan, and more in a round; fit had the whole MiB of the scan."""
    scan = make_run("SpladeLoss", peak_mib=4206.7, time_s=8.0)
    peers = [make_run("SpladeLoss", peak_mib=4300, time_s=time_s, round=n) for n, time_s in ((1, 10.0), (2, 12.0))]
    fits = [make_fit(4206, time_s=time_s, round=n) for n, time_s in ((1, 3.0), (2, 5.0))]
    return [scan, *peers, *fits, make_fit(1000, time_s=9.0, peak_mib=990)]


def test_fit_at_a_peers_memory_is_the_runs_whose_budget_is_the_peak_of_the_scan(results: list[CellResult]) -> None:
    assert TIME.who == "fit at the memory of SpladeLoss"
    assert TIME.measured(results) == pytest.approx(4.0 / 10.0)
    assert TIME.measured([result for result in results if result.memory_budget_bytes != 4206 * MIB]) is None
    assert TIME.measured([result for result in results if result.round or result.trainer != "SpladeLoss"]) is None
    assert replace(TIME, memory_of="CachedSpladeLoss").measured(results) is None


def test_runs_with_a_budget_are_not_runs_of_the_mode(results: list[CellResult]) -> None:
    assert replace(TIME, mode="memory-efficient", memory_of=None).measured(results) is None


def test_the_budget_is_kept_in_every_run(results: list[CellResult]) -> None:
    measured = BUDGET.measured(results)

    assert measured == pytest.approx(0.99)
    assert BUDGET.holds(measured)
    over = make_fit(1500, time_s=1.0, peak_mib=1501)
    measured = BUDGET.measured([*results, over])
    assert measured is not None and not BUDGET.holds(measured)


def test_the_rate_of_a_direct_step_counts_nothing_twice() -> None:
    run = make_fit(4206, time_s=2.0, step_flops=400, direct_step_flops=300, gemm_flops_per_s=200.0)

    assert direct_gemm_share(run) == pytest.approx(0.75)
    assert direct_gemm_share(replace(run, direct_step_flops=None)) is None
    peer = make_run("SpladeLoss", peak_mib=4206, time_s=6.0)
    assert TIME.least([run, peer]) == pytest.approx(300 / 200 / 6.0)


def test_every_workload_with_limits_of_fit_has_all_kinds_of_them() -> None:
    fitted = {
        bound.workload: [other for other in BOUNDS if other.workload == bound.workload and other.mode == FIT]
        for bound in BOUNDS
        if bound.mode == FIT
    }

    assert list(fitted) == ["base-512", "base-256-real", "mini-256", "mini-256-real"]
    for bounds in fitted.values():
        assert ("CachedSpladeLoss", "CachedSpladeLoss", 0.6) in [
            (bound.peer, bound.memory_of, bound.limit) for bound in bounds
        ]
        assert [bound.limit for bound in bounds if bound.figure is over_budget] == [1.0]
        assert [bound.memory_of for bound in bounds if bound.figure is direct_gemm_share] == ["SpladeLoss"]


def test_the_page_shows_each_budget_and_what_was_chosen_for_it(results: list[CellResult]) -> None:
    page = peers_page(results)

    rows = rows_of(page, "mini-256-dropout-0")
    assert [(row["trainer"], row["budget, MiB"], row["rounds"]) for row in rows] == [
        ("fit", "1000", "1"),
        ("fit", "4206", "2"),
        ("SpladeLoss", "—", "3"),
    ]
    assert "- batch 8, 4206 MiB: --mini-batch-tokens 1024 --no-selective-recomputation, planned 480 MiB" in text_of(
        page
    )
    who = "fit at the memory of SpladeLoss"
    row = row_of(page, "promises", workload="mini-256, batch 8", mode=who, figure="time ÷ SpladeLoss")
    assert row["attention dropout 0"] == "0.40 met"
    (picture,) = page.pictures
    assert picture.name == "frontiers-mini-256-b8-dropout-0"
    assert ">fit</text>" in picture.svg and ">SpladeLoss</text>" in picture.svg


def test_a_page_of_runs_without_a_budget_has_neither_its_columns_nor_its_picture(results: list[CellResult]) -> None:
    page = peers_page([result for result in results if result.memory_budget_bytes is None])

    assert "budget, MiB" not in rows_of(page, "mini-256-dropout-0")[0]
    assert not list(page.pictures)


def test_a_budget_that_nothing_fits_is_shown_as_a_failure(results: list[CellResult]) -> None:
    failed = make_fit(100, time_s=1.0, status="oom", error="nothing fits in 100 MiB", memory_settings=None)

    page = peers_page([*results, failed])

    assert row_of(page, "mini-256-dropout-0", **{"budget, MiB": "100"})["status"] == "oom"
    assert "fit100MiB: oom: nothing fits in 100 MiB" in text_of(page)
