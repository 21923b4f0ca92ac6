"""Times beside busy processes, and what is known of runs that did not end in time."""

from __future__ import annotations

from typing import Any

import pytest
from report_results import MACHINE, row_of, text_of
from results import make_cell_result

from splade_bench.grid.cell import PEER_MODE
from splade_bench.report.company import LIMITS, company_page, median_time, step_time, times_text
from splade_bench.report.document import make_pages
from splade_bench.results.records import CellResult


def make_run(trainer: str, busy_processes: int, time_s: float, **changes: Any) -> CellResult:
    return make_cell_result(
        workload="company",
        memory_mode="memory-efficient" if trainer == "splade-bench" else PEER_MODE,
        trainer=trainer,
        busy_processes=busy_processes,
        max_steps=3,
        **{"step_time_s": time_s, "machine": MACHINE} | changes,
    )


def make_late(trainer: str, busy_processes: int, wall_time_s: float) -> CellResult:
    """A run that was ended after this time."""
    ended = {"status": "timeout", "error": "took longer than 300 s", "step_time_s": None, "wall_time_s": wall_time_s}
    return make_run(trainer, busy_processes, 0.0, **ended)


@pytest.fixture
def results() -> list[CellResult]:
    own = [make_run("splade-bench", 0, time_s) for time_s in (1.9, 2.0, 2.4)]
    beside = [make_run("splade-bench", 1, time_s) for time_s in (3.9, 4.0, 5.0)]
    return [*own, *beside, make_run("SpladeLoss", 0, 5.0), make_late("SpladeLoss", 1, 270.0)]


def test_each_trainer_is_compared_with_itself_and_with_splade_loss(results: list[CellResult]) -> None:
    failed = make_run("CachedSpladeLoss", 0, 5.0, status="error", error="no | reason")

    page = company_page([*results, failed])

    row = row_of(page, "trainers", trainer="memory-efficient", **{"busy processes": "1"})
    assert row["runs"] == "3 ok"
    assert row["s per optimizer step"] == "4.00 (3.90 to 5.00)"
    assert row["÷ own quiet time"] == "2.00"
    assert row["÷ SpladeLoss beside as many"] == "less than 0.04"
    late = row_of(page, "trainers", trainer="SpladeLoss", **{"busy processes": "1"})
    assert late["s per optimizer step"] == "more than 90.00"
    assert late["÷ own quiet time"] == "more than 18.00"
    assert late["÷ SpladeLoss beside as many"] == "1.00"
    assert late["runs"] == "1 timeout"
    assert "error: no \\| reason" in text_of(page)
    assert "took longer" not in text_of(page)


def test_limits_are_judged_as_far_as_the_times_are_known(results: list[CellResult]) -> None:
    def measured(results: list[CellResult]) -> list[str]:
        page = company_page(results)
        return [row_of(page, "limits", figure=limit.title)["measured"] for limit in LIMITS]

    assert measured(results) == ["2.00 met", "less than 0.04 met", "not measured"]
    short = [*results[:-1], make_late("SpladeLoss", 1, 30.0)]
    assert measured(short)[1] == "less than 0.40 not decided"
    known = [*results[:-1], make_run("SpladeLoss", 1, 10.0)]
    assert measured(known)[1] == "0.40 MISSED"


def test_a_median_is_known_if_every_ended_run_is_above_it() -> None:
    known = [make_run("SpladeLoss", 1, 5.0), make_run("SpladeLoss", 1, 6.0)]

    above = median_time([*known, make_late("SpladeLoss", 1, 90.0)])
    below = median_time([*known, make_late("SpladeLoss", 1, 3.0)])

    assert above is not None and below is not None
    assert (above.value, above.sign) == (6.0, "")
    assert (below.value, below.sign) == (5.0, ">")
    assert times_text([*known, make_late("SpladeLoss", 1, 90.0)]) == "6.00 (5.00 to at least 30.00)"


def test_a_run_that_failed_or_was_ended_before_its_training_says_nothing() -> None:
    failed = make_run("SpladeLoss", 1, 5.0, status="error")
    early = make_run("SpladeLoss", 1, 0.0, status="timeout", step_time_s=None)

    assert step_time(failed) is None
    assert step_time(early) is None
    assert median_time([failed, early]) is None
    assert times_text([failed, early]) == "—"


def test_there_is_a_page_only_if_there_are_such_runs(results: list[CellResult]) -> None:
    other = make_cell_result(workload="mini-256", machine=MACHINE)

    assert [page.name for page in make_pages([other])] == ["PEERS"]
    assert [page.name for page in make_pages([other, *results])] == ["PEERS", "COMPANY"]
