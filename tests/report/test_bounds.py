"""Limits are judged by medians of the right runs, and never from missing runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_results import MACHINE, row_of, rows_of, text_of
from results import MIB, make_cell_result

from splade_bench.grid.workloads import WORKLOADS
from splade_bench.report.bounds import BOUNDS, Bound, gemm_share, most_run_size, over_state, peak_rss_gib
from splade_bench.report.peers import peers_page
from splade_bench.results.figures import peak_rss_bytes, step_time_s
from splade_bench.results.records import CellResult

OWN_MODE = {"workload": "mini-256, batch 8", "mode": "memory-efficient"}
TIME = Bound(workload="mini-256", batch_size=8, what="time", figure=step_time_s, limit=0.5, peer="CachedSpladeLoss")


def make_run(
    trainer: str, *, step_time_s: float, peak_mib: int = 800, size: int | None = None, **changes: Any
) -> CellResult:
    return make_cell_result(
        workload="mini-256",
        memory_mode="memory-efficient" if trainer == "splade-bench" else "standard",
        trainer=trainer,
        trainer_size=size,
        step_time_s=step_time_s,
        peak_rss_bytes=peak_mib * MIB,
        baseline_rss_bytes=400 * MIB,
        losses=[0.7, 2.0],
        machine=MACHINE,
        **changes,
    )


@pytest.fixture
def results() -> list[CellResult]:
    ours = [make_run("splade-bench", step_time_s=time_s, round=n) for n, time_s in enumerate([4.0, 5.0, 9.0], 1)]
    scan = make_run("CachedSpladeLoss", step_time_s=2.0, size=1)
    peer = [make_run("CachedSpladeLoss", step_time_s=time_s, size=4) for time_s in (12.0, 10.0, 11.0)]
    return [*ours, scan, *peer]


def test_a_ratio_is_of_medians_and_of_the_size_with_all_rounds(results: list[CellResult]) -> None:
    measured = TIME.measured(results)

    assert measured == pytest.approx(5.0 / 11.0)
    assert TIME.holds(measured)
    assert not TIME.holds(0.51)


def test_missing_runs_give_no_verdict(results: list[CellResult]) -> None:
    failed = [replace(result, status="oom") for result in results if result.trainer == "CachedSpladeLoss"]

    assert TIME.measured([]) is None
    assert TIME.measured(results[:3]) is None
    assert TIME.measured([*results[:3], *failed]) is None
    assert replace(TIME, batch_size=4).measured(results) is None


def test_a_figure_that_must_be_at_least_the_limit_is_judged_so() -> None:
    bound = replace(TIME, peer=None, figure=gemm_share, limit=0.7, at_least=True)
    run = make_run("splade-bench", step_time_s=2.0, step_flops=300, gemm_flops_per_s=200.0)

    assert bound.measured([run]) == pytest.approx(0.75)
    assert bound.holds(0.75)
    assert not bound.holds(0.69)


def test_the_state_is_weights_gradients_and_two_moments_beside_the_runtime() -> None:
    run = make_run("splade-bench", step_time_s=1.0, peak_mib=990, parameter_bytes=125 * MIB)

    assert over_state(run) == pytest.approx(990 / (4 * 125 + 400))
    assert over_state(replace(run, parameter_bytes=None)) is None


def test_the_least_possible_time_is_that_of_the_products_alone(results: list[CellResult]) -> None:
    ours = [replace(result, step_flops=300, gemm_flops_per_s=100.0) for result in results[:3]]

    least = TIME.least([*ours, *results[3:]])

    assert least == pytest.approx(3.0 / 11.0)
    assert TIME.least(results) is None


def test_the_least_possible_peak_is_the_state_beside_the_runtime() -> None:
    bound = replace(TIME, peer=None, figure=peak_rss_gib, what="peak RSS, GiB")
    run = make_run("splade-bench", step_time_s=1.0, peak_mib=990, parameter_bytes=125 * MIB)

    assert bound.least([run]) == pytest.approx(900 / 1024)
    assert replace(bound, figure=peak_rss_bytes).least([run]) == pytest.approx(900 * MIB)
    assert replace(bound, mode="minimal-memory").least([run]) is None


def test_a_trainer_without_runs_has_no_size() -> None:
    assert most_run_size([]) == []


def test_every_limit_names_a_workload_of_the_page_about_peers() -> None:
    assert len(BOUNDS) >= 20
    for bound in BOUNDS:
        assert WORKLOADS[bound.workload].page == "PEERS"


def test_the_page_judges_runs_without_attention_dropout_and_shows_the_others_beside_them(
    results: list[CellResult],
) -> None:
    with_dropout = [replace(result, attention_dropout=0.1) for result in results]

    page = peers_page([*results, *with_dropout])

    row = row_of(page, "promises", **OWN_MODE, figure="time ÷ CachedSpladeLoss")
    assert row["limit"] == "≤ 0.45"
    assert row["attention dropout 0"] == "0.45 MISSED"
    assert row["attention dropout 0.1"] == "0.45"
    other = row_of(page, "promises", **OWN_MODE, figure="time ÷ SpladeLoss")
    assert other["attention dropout 0"] == other["attention dropout 0.1"] == "not measured"
    assert "## `mini-256`, attention dropout 0.1" in text_of(page)


def test_a_ratio_never_spans_two_machines(results: list[CellResult]) -> None:
    ours = [result for result in results if result.trainer == "splade-bench"]
    peers = [replace(result, machine=MACHINE | {"processor": "faster"}) for result in results if result not in ours]
    newer = [replace(result, started_at="2026-02-01") for result in ours]

    page = peers_page([*newer, *peers])

    assert {row["trainer"] for row in rows_of(page, "mini-256-dropout-0")} == {"memory-efficient"}
    row = row_of(page, "promises", **OWN_MODE, figure="time ÷ CachedSpladeLoss")
    assert row["attention dropout 0"] == "not measured"


def test_the_page_shows_the_scan_and_what_failed(results: list[CellResult]) -> None:
    failed = make_run("article-trainer", step_time_s=1.0, status="oom", error="no | memory\nleft")

    page = peers_page([*results, failed])

    rows = rows_of(page, "mini-256-dropout-0")
    assert [(row["trainer"], row["size"], row["rounds"], row["status"]) for row in rows] == [
        ("memory-efficient", "—", "3", "ok"),
        ("CachedSpladeLoss", "1", "1", "ok"),
        ("CachedSpladeLoss", "4", "3", "ok"),
        ("article-trainer", "—", "0", "oom"),
    ]
    assert "mini-256-cpu-b8-a1-article-trainer-standard: oom: no \\| memory left" in text_of(page)


def test_absolute_figures_are_the_median_of_the_modes_runs(results: list[CellResult]) -> None:
    bound = replace(TIME, peer=None, figure=peak_rss_gib, what="peak RSS, GiB")

    assert bound.measured(results) == pytest.approx(800 / 1024)
