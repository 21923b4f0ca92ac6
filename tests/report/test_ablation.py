"""A technique's effect is with minus without, whichever of the two runs carries its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.report.ablation import ablation_page, effects_of
from splade_bench.report.intervals import interval_90
from splade_bench.report.markdown import page_markdown
from splade_bench.results.records import CellResult

MIB = 2**20


def ablation_text(results: Sequence[CellResult]) -> str:
    return page_markdown(ablation_page(results))


def make_run(mode: str, *, added_mib: int, wall_time_s: float, mrr: float, seed: int = 1, **changes: Any) -> CellResult:
    cell = Cell(
        workload="ablation",
        device="cpu",
        batch_size=16,
        gradient_accumulation_steps=1,
        memory_mode=mode,
        seed=seed,
    )
    result = CellResult.of_cell(
        cell,
        status="ok",
        wall_time_s=wall_time_s,
        baseline_rss_bytes=400 * MIB,
        peak_rss_bytes=(400 + added_mib) * MIB,
        metrics={"mrr@10": mrr},
        losses=[1.0, 2.0],
    )
    return replace(result, **changes)


def rows_of(page: str, technique: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith(f"| {technique} ")]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


def test_a_technique_is_judged_alone_and_left_out() -> None:
    results = [
        make_run("standard", added_mib=400, wall_time_s=20.0, mrr=0.30),
        make_run("standard+streaming-head", added_mib=150, wall_time_s=10.0, mrr=0.31),
        make_run("memory-efficient", added_mib=100, wall_time_s=5.0, mrr=0.30),
        make_run("memory-efficient-without-streaming-head", added_mib=260, wall_time_s=15.0, mrr=0.32),
    ]

    page = ablation_text(results)

    assert rows_of(page, "streaming-head") == [
        ["1", "400", "150", "+250", "0.50", "+0.010"],
        ["1", "260", "100", "+160", "0.33", "-0.020"],
    ]
    assert page.index("Added to `standard`") < page.index("Left out of `memory-efficient`")


def test_only_runs_that_are_alike_but_for_the_technique_are_paired() -> None:
    reference = make_run("standard", added_mib=400, wall_time_s=20.0, mrr=0.3)
    technique = make_run("standard+streaming-head", added_mib=150, wall_time_s=10.0, mrr=0.3)

    assert len(effects_of([reference, technique])) == 1
    for changes in ({"seed": 2}, {"source_tree": "other"}, {"machine": {"processor": "x"}}, {"status": "oom"}):
        assert effects_of([reference, replace(technique, **changes)]) == []
    assert effects_of([technique]) == []


def test_a_technique_that_failed_is_named_with_its_reason() -> None:
    failed = make_run(
        "standard+streaming-head", added_mib=1, wall_time_s=1.0, mrr=0.0, status="nan", error="loss is nan"
    )

    assert "nan: loss is nan" in ablation_text([make_run("standard", added_mib=4, wall_time_s=2.0, mrr=0.3), failed])


@pytest.mark.parametrize(("difference", "verdict"), [(0.0, "equal within ± 0.01"), (0.02, "not shown to be equal")])
def test_quality_is_judged_from_five_seeds_on(difference: float, verdict: str) -> None:
    results = [
        make_run(mode, added_mib=1, wall_time_s=1.0, mrr=0.3 + shift + seed / 1000, seed=seed)
        for seed in range(1, 6)
        for mode, shift in (("standard", 0.0), ("memory-efficient", difference))
    ]

    assert verdict in ablation_text(results)
    assert "equal" not in ablation_text(results[:8])


def test_equal_runs_of_a_seed_are_one_of_its_interval() -> None:
    results = [
        make_run(mode, added_mib=1, wall_time_s=1.0, mrr=0.3 + shift * (seed - 3), seed=seed, round=number)
        for number in (1, 2, 3)
        for seed in range(1, 6)
        for mode, shift in (("standard", 0.0), ("memory-efficient", 0.008))
    ]

    (row,) = [line for line in ablation_text(results).splitlines() if "not shown to be equal" in line]
    assert [cell.strip() for cell in row.split("|")][4] == "5"


def test_the_interval_is_students() -> None:
    interval = interval_90([0.0, 0.01, 0.02, 0.03, 0.04])

    margin = 2.132 * 0.0158113883 / 5**0.5
    assert (interval.low, interval.high) == (pytest.approx(0.02 - margin), pytest.approx(0.02 + margin))


def test_rounds_are_paired_one_by_one_and_shown_as_median_and_range() -> None:
    results = [
        make_run(mode, added_mib=added, wall_time_s=time_s, mrr=0.3, round=number)
        for number, plain, streaming in ((1, 400, 150), (2, 420, 130), (3, 410, 170))
        for mode, added, time_s in (("standard", plain, 20.0), ("standard+streaming-head", streaming, 10.0))
    ]

    assert rows_of(ablation_text(results), "streaming-head")[0][:4] == [
        "3",
        "410 (400 to 420)",
        "150 (130 to 170)",
        "+250 (+240 to +290)",
    ]


def test_autocast_is_a_technique_beside_the_same_mode_without_it() -> None:
    results = [
        make_run("memory-efficient", added_mib=100, wall_time_s=5.0, mrr=0.30),
        make_run("memory-efficient", added_mib=80, wall_time_s=10.0, mrr=0.29, mixed_precision="bf16"),
    ]

    assert rows_of(ablation_text(results), "autocast-bf16") == [["1", "100", "80", "+20", "2.00", "-0.010"]]


def test_where_a_first_step_only_warms_up_the_time_is_that_of_the_others() -> None:
    results = [
        make_run(mode, added_mib=100, wall_time_s=9.0, mrr=0.3, workload="ablation-mini", step_time_s=step_time_s)
        for mode, step_time_s in (("standard", 8.0), ("standard+streaming-head", 2.0))
    ]

    assert rows_of(ablation_text(results), "streaming-head")[0][4] == "0.25"
