"""What may be compared is said in one place: each level names its conditions, and what differs is text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from results import make_call_result, make_cell_result

from splade_bench.results.conditions import (
    LEVELS,
    Level,
    conditions_of,
    differences,
    newest_comparable,
    pair_key,
    set_differences,
    setup_key,
)
from splade_bench.results.records import CellResult

MACHINE = {"processor": "Test", "logical_cores": 2, "memory_bytes": 8 * 2**30, "threads": 2, "huge_pages": "madvise"}
VERSIONS = {"torch": "2.13.0+cpu", "python": "3.11.7", "memray": "1.20.0", "transformers": "5.0"}
RESULT = make_cell_result(machine=MACHINE, versions=VERSIONS, source_tree="s", corpus_sha256="c", max_steps=3)
GATE_LEVELS: list[Level] = ["anywhere", "same interpreter", "same corpus", "same machine"]


def differing(level: Level, **changes: Any) -> list[str]:
    return differences(level, conditions_of(RESULT), conditions_of(replace(RESULT, **changes)))


@pytest.mark.parametrize("level", LEVELS)
def test_equal_runs_may_be_compared_for_everything(level: Level) -> None:
    assert differing(level) == []
    assert differing(level, seed=7, round=2, started_at="later", commit="x", session="y", peak_rss_bytes=5) == []


@pytest.mark.parametrize(
    ("changes", "text", "levels"),
    [
        ({"versions": {**VERSIONS, "torch": "2.14.1"}}, "torch 2.13 → 2.14", {*GATE_LEVELS, "equal runs"}),
        ({"versions": {**VERSIONS, "python": "3.12.0"}}, "python 3.11 → 3.12", {"same interpreter", "equal runs"}),
        ({"max_steps": None}, "max_steps 3 → None", {*GATE_LEVELS, "equal runs", "same setup"}),
        ({"corpus_sha256": "d"}, "corpus_sha256 c → d", {"same corpus", "equal runs"}),
        ({"source_tree": "t"}, "source_tree s → t", {"same code", "same setup"}),
        ({"mixed_precision": "bf16"}, "mixed_precision no → bf16", {"same setup"}),
        ({"trainer": "SpladeLoss"}, "trainer splade-bench → SpladeLoss", {"same setup"}),
        ({"memory_limit_bytes": 9}, "memory_limit_bytes None → 9", {"same setup"}),
        ({"memory_budget_bytes": 9}, "memory_budget_bytes None → 9", {"same setup"}),
        ({"busy_processes": 1}, "busy_processes 0 → 1", {"same setup"}),
        ({"processes": 2}, "processes 1 → 2", {"same setup"}),
        (
            {"machine": {**MACHINE, "huge_pages": "always"}},
            "huge_pages madvise → always",
            {"same machine", "equal runs", "same code", "same setup"},
        ),
        (
            {"machine": {**MACHINE, "threads": 8}},
            "threads 2 → 8",
            {"same interpreter", "same machine", "equal runs", "same code", "same setup"},
        ),
    ],
)
def test_a_level_says_what_differs_and_knows_only_its_own_conditions(
    changes: dict[str, Any], text: str, levels: set[Level]
) -> None:
    assert {level for level in LEVELS if text in differing(level, **changes)} == levels


def test_a_patch_release_is_other_code_but_no_obstacle_to_a_gate() -> None:
    patched = {"versions": {**VERSIONS, "torch": "2.13.1"}}

    assert [level for level in LEVELS if differing(level, **patched)] == ["same code"]


def test_machines_of_one_class_may_differ_a_little_in_memory() -> None:
    assert differing("same machine", machine={**MACHINE, "memory_bytes": 8 * 2**30 + 450_560}) == []
    assert differing("same machine", machine={**MACHINE, "memory_bytes": 9 * 2**30}) != []
    assert differing("same machine", machine={**MACHINE, "memory_bytes": "much"}) != []


def test_a_condition_that_one_side_does_not_say_differs_unless_only_known_ones_are_asked_for() -> None:
    silent = conditions_of(replace(RESULT, machine={name: MACHINE[name] for name in MACHINE if name != "threads"}))

    assert differences("same machine", conditions_of(RESULT), silent) == ["threads 2 → None"]
    assert differences("same machine", conditions_of(RESULT), silent, where_known=True) == []


def test_pairs_share_all_but_mode_and_round() -> None:
    assert pair_key(RESULT) == pair_key(replace(RESULT, memory_mode="article", round=3))
    for changes in ({"seed": 7}, {"batch_size": 2}, {"workload": "mini"}, {"device": "cuda"}, {"source_tree": "t"}):
        assert pair_key(RESULT) != pair_key(replace(RESULT, **changes))
    assert setup_key(RESULT) == setup_key(replace(RESULT, seed=7, batch_size=2))
    assert setup_key(RESULT) != setup_key(replace(RESULT, machine={**MACHINE, "processor": ["odd", "file"]}))


def test_two_sets_say_what_they_were_not_both_taken_under() -> None:
    other = replace(RESULT, machine={**MACHINE, "processor": "Other"}, corpus_sha256="d")

    assert set_differences([RESULT], [RESULT]) == []
    assert set_differences([RESULT], [RESULT, other]) == [
        "processor: Test before, Other, Test after",
        "measured on different texts (corpus_sha256): do not compare losses and metrics",
    ]
    newer = replace(RESULT, versions={**VERSIONS, "transformers": "5.1"})
    assert set_differences([RESULT], [newer]) == ["transformers: 5.0 before, 5.1 after"]


def kept(*results: CellResult) -> list[CellResult]:
    return newest_comparable(results, key=lambda result: result.cell_id, run=lambda result: result)


def test_of_each_key_what_was_taken_as_the_newest_is_kept_in_order() -> None:
    newest = replace(RESULT, started_at="2026-02-01")
    older = replace(RESULT, started_at="2026-01-01")
    other_tree = replace(older, source_tree="t")
    other_cell = make_cell_result(batch_size=2, source_tree="t")

    assert kept(older, other_tree, other_cell, newest) == [older, other_cell, newest]
    assert kept(newest, replace(other_tree, started_at="2026-03-01")) == [replace(other_tree, started_at="2026-03-01")]


def test_what_the_newest_run_did_not_say_an_older_one_decides() -> None:
    crashed = replace(RESULT, status="killed", started_at="3", machine={"processor": "Test"})
    two, one = replace(RESULT, started_at="2"), replace(RESULT, started_at="1", machine={**MACHINE, "threads": 1})

    assert kept(one, two, crashed) == [two, crashed]


def test_a_call_has_no_steps_and_no_corpus() -> None:
    assert conditions_of(make_call_result())["max_steps"] is None
