"""A claim's verdict follows from what was measured, and from nothing less than it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from report_results import make_result, make_sweep
from results import MIB

from splade_bench.report.claims import CLAIMS, FEWEST_SEEDS, Verdict, claims_blocks, judge
from splade_bench.report.page import Table, Text
from splade_bench.results.records import CellResult


def verdict_on(number: int, results: Sequence[CellResult]) -> Verdict:
    (claim,) = (claim for claim in CLAIMS if claim.number == number)
    return judge(claim, results)[0]


def table_of_claims(name: str) -> Table:
    return next(block for block in claims_blocks(make_sweep()) if isinstance(block, Table) and block.name == name)


def changed(results: Sequence[CellResult], mode: str, **changes: Any) -> list[CellResult]:
    return [replace(result, **changes) if result.memory_mode == mode else result for result in results]


def test_there_are_eleven_each_with_a_row() -> None:
    assert [claim.number for claim in CLAIMS] == list(range(1, 12))
    assert [row[0] for row in table_of_claims("claims").rows] == [str(number) for number in range(1, 12)]


def test_no_verdict_is_given_from_too_few_seeds() -> None:
    enough, too_few = (make_sweep(range(1, count + 1)) for count in (FEWEST_SEEDS, FEWEST_SEEDS - 1))

    assert {judge(claim, too_few)[0] for claim in CLAIMS} == {"too few seeds", "not measured here"}
    assert len({judge(claim, enough)[0] for claim in CLAIMS}) > 1


def test_what_to_run_for_more_verdicts_is_said_where_seeds_are_too_few() -> None:
    def text(results: Sequence[CellResult]) -> str:
        return "\n".join(block.markdown for block in claims_blocks(results) if isinstance(block, Text))

    assert "--profile full" not in text(make_sweep())
    one_seed = text(make_sweep([1]))
    assert "Too few seeds: 1, 4, 5, 6, 11. `pytest benchmarks --profile full` measures 3 seeds." in one_seed
    assert "Not measured here: 2, 3, 7, 9." in one_seed


def test_what_nothing_here_can_decide_is_not_decided() -> None:
    assert verdict_on(8, make_sweep()) == verdict_on(10, make_sweep()) == "not measured here"


def test_accumulation_needs_less_memory_and_is_the_same_batch_only_if_it_ranks_as_well() -> None:
    sweep = make_sweep()
    worse = [
        replace(result, metrics={"mrr@10": 0.2}) if result.gradient_accumulation_steps == 4 else result
        for result in sweep
    ]
    larger = [
        replace(result, peak_rss_bytes=900 * MIB) if result.gradient_accumulation_steps == 4 else result
        for result in worse
    ]

    assert verdict_on(1, sweep) == "holds"
    assert verdict_on(1, worse) == "depends"
    assert verdict_on(1, larger) == "does not hold"


def test_time_by_accumulation_is_judged_by_step_and_by_query() -> None:
    once = [make_result(seed=seed, batch_size=4, step_time_s=1.0) for seed in (1, 2, 3)]
    slower_steps = [replace(result, gradient_accumulation_steps=4, step_time_s=4.0) for result in once]
    all_slower = [replace(result, wall_time_s=80.0) for result in slower_steps]

    assert verdict_on(2, [*once, *slower_steps]) == "depends"
    assert verdict_on(2, [*once, *all_slower]) == "holds"


def test_an_accelerator_is_compared_with_the_same_cell_on_the_cpu() -> None:
    cpu = [make_result(seed=seed) for seed in (1, 2, 3)]
    machine = cpu[0].machine | {"device": "cuda"}
    cuda = [replace(result, device="cuda", wall_time_s=2.0, machine=machine) for result in cpu]

    assert verdict_on(3, [*cpu, *cuda]) == "holds"
    assert verdict_on(3, [*cpu, *(replace(result, wall_time_s=20.0) for result in cuda)]) == "does not hold"
    assert verdict_on(3, cpu) == "not measured here"


def test_a_claim_with_one_seed_shows_its_figure_without_a_verdict() -> None:
    cpu = make_result(seed=1, wall_time_s=20.0)
    cuda = replace(cpu, device="cuda", wall_time_s=2.0, machine=cpu.machine | {"device": "cuda"})

    verdict, (finding,) = judge(CLAIMS[2], [cpu, cuda])

    assert verdict == "too few seeds"
    assert (finding.seeds, finding.effect) == (1, "10.00")


def test_the_leanest_mode_need_not_be_the_slowest() -> None:
    sweep = make_sweep()

    assert verdict_on(4, sweep) == "does not hold"
    assert verdict_on(4, changed(sweep, "memory-efficient", wall_time_s=60.0)) == "holds"
    minimal = [
        replace(result, memory_mode="minimal-memory", wall_time_s=60.0, peak_rss_bytes=410 * MIB)
        for result in sweep
        if result.memory_mode == "standard"
    ]
    assert verdict_on(4, [*sweep, *minimal]) == "depends"


def test_garbage_collection_is_judged_by_the_memory_that_it_saves() -> None:
    sweep = make_sweep()

    assert verdict_on(5, sweep) == "does not hold"
    assert verdict_on(5, changed(sweep, "article", peak_rss_bytes=500 * MIB)) == "holds"


def test_quality_is_judged_against_standard_and_against_a_perfect_ranking() -> None:
    perfect = [replace(result, metrics={"mrr@10": 0.3, "candidate_p@1": 1.0}) for result in make_sweep()]

    assert verdict_on(6, make_sweep()) == "depends"
    assert verdict_on(6, perfect) == "holds"
    worse = changed(make_sweep(), "memory-efficient", metrics={"mrr@10": 0.1, "candidate_p@1": 0.9})
    assert verdict_on(6, worse) == "does not hold"


def test_a_mode_that_ranks_worse_is_not_made_up_for_by_others() -> None:
    perfect = [replace(result, metrics={"mrr@10": 0.3, "candidate_p@1": 1.0}) for result in make_sweep()]
    worse = [
        make_result("minimal-memory", seed=seed, metrics={"mrr@10": 0.1, "candidate_p@1": 1.0}) for seed in (1, 2, 3)
    ]

    assert verdict_on(6, [*perfect, *worse]) == "depends"


def test_the_laptop_run_is_the_articles_model_and_settings_only() -> None:
    runs = [
        make_result("article", seed=seed, workload="base", batch_size=4, gradient_accumulation_steps=4, metrics=None)
        for seed in (1, 2, 3)
    ]

    assert verdict_on(7, runs) == "holds"
    assert verdict_on(7, [replace(run, peak_rss_bytes=17 * 2**30) for run in runs]) == "does not hold"
    assert verdict_on(7, changed(runs, "article", memory_mode="memory-efficient")) == "not measured here"


def test_accumulation_is_held_against_single_techniques_and_against_a_whole_mode() -> None:
    sweep = make_sweep()

    def with_head(added_mib: float) -> list[CellResult]:
        return [*sweep, *(make_result("standard+streaming-head", added_mib=added_mib, seed=seed) for seed in (1, 2, 3))]

    assert verdict_on(9, sweep) == "not measured here"
    assert verdict_on(9, with_head(350)) == "depends"
    assert verdict_on(9, with_head(100)) == "does not hold"
    assert verdict_on(9, changed(with_head(350), "memory-efficient", peak_rss_bytes=799 * MIB)) == "holds"


def test_the_ladder_is_right_only_where_its_first_rung_beats_its_last() -> None:
    sweep = make_sweep()

    assert verdict_on(11, sweep) == "does not hold"
    assert verdict_on(11, changed(sweep, "memory-efficient", wall_time_s=60.0)) == "depends"


def test_runs_of_different_machines_are_never_paired() -> None:
    sweep = changed(make_sweep(), "article", machine={"processor": "Other"})

    assert verdict_on(5, sweep) == "not measured here"


def test_a_run_that_failed_decides_nothing() -> None:
    assert verdict_on(5, changed(make_sweep(), "article", status="oom")) == "not measured here"


def test_every_part_says_what_it_needs_and_what_was_found() -> None:
    row = next(row for row in table_of_claims("claims-parts").rows if row[0] == "5")
    assert row[3] == "at most 0.98"
    assert row[4].startswith("1.00 (1.00 to 1.00)")
    assert row[5:] == ["3", "does not hold"]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.number))
def test_an_empty_sweep_decides_nothing(claim: Any) -> None:
    assert judge(claim, [])[0] == "not measured here"
