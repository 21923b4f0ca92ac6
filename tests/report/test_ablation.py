"""A technique's effect is with minus without, whichever of the two runs carries its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_results import make_result, row_of, rows_of, text_of

from splade_bench.report.ablation import ablation_page, effects_of
from splade_bench.report.intervals import interval_90
from splade_bench.results.records import CellResult

ADDED_TO_STANDARD, LEFT_OUT = "added-to-standard-ablation", "left-out-of-memory-efficient-ablation"


def make_run(mode: str, *, added_mib: int, wall_time_s: float, mrr: float = 0.3, **changes: Any) -> CellResult:
    return make_result(
        mode,
        added_mib=added_mib,
        wall_time_s=wall_time_s,
        **{"workload": "ablation", "metrics": {"mrr@10": mrr}, "losses": [1.0, 2.0]} | changes,
    )


def test_a_technique_is_judged_alone_and_left_out() -> None:
    results = [
        make_run("standard", added_mib=400, wall_time_s=20.0, mrr=0.30),
        make_run("standard+streaming-head", added_mib=150, wall_time_s=10.0, mrr=0.31),
        make_run("memory-efficient", added_mib=100, wall_time_s=5.0, mrr=0.30),
        make_run("memory-efficient-without-streaming-head", added_mib=260, wall_time_s=15.0, mrr=0.32),
    ]

    _, alone, left_out = ablation_page(results).tables

    assert (alone.name, alone.rows) == (
        ADDED_TO_STANDARD,
        [["streaming-head", "1", "400", "150", "+250", "0.50", "+0.010"]],
    )
    assert (left_out.name, left_out.rows) == (
        LEFT_OUT,
        [["streaming-head", "1", "260", "100", "+160", "0.33", "-0.020"]],
    )


def test_only_runs_that_are_equal_but_for_the_technique_are_paired() -> None:
    reference = make_run("standard", added_mib=400, wall_time_s=20.0)
    technique = make_run("standard+streaming-head", added_mib=150, wall_time_s=10.0)

    assert len(effects_of([reference, technique])) == 1
    for changes in ({"seed": 2}, {"source_tree": "other"}, {"machine": {"processor": "x"}}, {"status": "oom"}):
        assert effects_of([reference, replace(technique, **changes)]) == []
    assert effects_of([technique]) == []


def test_a_technique_that_failed_is_named_with_its_reason() -> None:
    failed = make_run("standard+streaming-head", added_mib=1, wall_time_s=1.0, status="nan", error="loss is nan")

    text = text_of(ablation_page([make_run("standard", added_mib=4, wall_time_s=2.0), failed]))

    assert "Failed:\n\n- ablation-cpu-b16-a1-standard+streaming-head: nan: loss is nan" in text


@pytest.mark.parametrize(("difference", "verdict"), [(0.0, "equal within ± 0.01"), (0.02, "not shown to be equal")])
def test_quality_is_judged_from_five_seeds_on(difference: float, verdict: str) -> None:
    results = [
        make_run(mode, added_mib=1, wall_time_s=1.0, mrr=0.3 + shift + seed / 1000, seed=seed)
        for seed in range(1, 6)
        for mode, shift in (("standard", 0.0), ("memory-efficient", difference))
    ]

    (row,) = rows_of(ablation_page(results), "quality")

    assert (row["mode"], row["against"], row["seeds"], row["verdict"]) == ("memory-efficient", "standard", "5", verdict)
    assert row["MRR@10"] == f"{difference:+.4f}"
    assert "quality" not in [table.name for table in ablation_page(results[:8]).tables]


def test_equal_runs_of_a_seed_are_one_of_its_interval() -> None:
    results = [
        make_run(mode, added_mib=1, wall_time_s=1.0, mrr=0.3 + shift * (seed - 3), seed=seed, round=number)
        for number in (1, 2, 3)
        for seed in range(1, 6)
        for mode, shift in (("standard", 0.0), ("memory-efficient", 0.008))
    ]

    (row,) = rows_of(ablation_page(results), "quality")

    assert (row["seeds"], row["verdict"]) == ("5", "not shown to be equal")


def test_the_interval_is_students() -> None:
    interval = interval_90([0.0, 0.01, 0.02, 0.03, 0.04])

    margin = 2.132 * 0.0158113883 / 5**0.5
    assert (interval.low, interval.high) == (pytest.approx(0.02 - margin), pytest.approx(0.02 + margin))


def test_rounds_are_paired_one_by_one_and_shown_as_median_and_range() -> None:
    results = [
        make_run(mode, added_mib=added, wall_time_s=time_s, round=number)
        for number, plain, streaming in ((1, 400, 150), (2, 420, 130), (3, 410, 170))
        for mode, added, time_s in (("standard", plain, 20.0), ("standard+streaming-head", streaming, 10.0))
    ]

    _, table = ablation_page(results).tables

    assert table.rows[0][1:5] == ["3", "410 (400 to 420)", "150 (130 to 170)", "+250 (+240 to +290)"]


def test_autocast_is_a_technique_beside_the_same_mode_without_it() -> None:
    results = [
        make_run("memory-efficient", added_mib=100, wall_time_s=5.0, mrr=0.30),
        make_run("memory-efficient", added_mib=80, wall_time_s=10.0, mrr=0.29, mixed_precision="bf16"),
    ]

    _, table = ablation_page(results).tables

    assert table.rows == [["autocast-bf16", "1", "100", "80", "+20", "2.00", "-0.010"]]


def test_where_a_first_step_only_warms_up_the_time_is_that_of_the_others() -> None:
    results = [
        make_run(mode, added_mib=100, wall_time_s=9.0, workload="ablation-mini", step_time_s=step_time_s)
        for mode, step_time_s in (("standard", 8.0), ("standard+streaming-head", 2.0))
    ]

    page = ablation_page(results)

    assert row_of(page, "added-to-standard-ablation-mini", technique="streaming-head")["time"] == "0.25"
