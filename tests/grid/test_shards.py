"""Shards of a sweep are disjoint and complete, always the same, and about equally heavy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import CELL

from splade_bench.errors import ConfigError
from splade_bench.grid.shards import Shard, compared_with, expected_s, shard_count

WEIGHTS = st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=30)


@given(WEIGHTS, st.data())
def test_each_part_is_in_one_shard_whatever_their_order(weights: dict[str, float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(weights)))
    shuffled = dict(data.draw(st.permutations(list(weights.items()))))

    shards = [Shard(number, count).chosen(weights) for number in range(1, count + 1)]

    assert sorted(part for shard in shards for part in shard) == sorted(weights)
    assert [Shard(number, count).chosen(shuffled) for number in range(1, count + 1)] == shards
    assert all(shards)
    totals = [sum(weights[part] for part in shard) for shard in shards]
    assert max(totals) - min(totals) <= max(weights.values()) + 1e-9


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("2", "--shard 2: write the shard's number and how many there are, such as 2/8"),
        ("a/b", "--shard a/b: write"),
        ("²/3", "--shard ²/3: write"),
        ("-1/3", "--shard -1/3: write"),
        ("0/3", "--shard 0/3: the first number must be from 1 to the second one"),
        ("4/3", "--shard 4/3: the first number must be from 1 to the second one"),
    ],
)
def test_a_shard_that_does_not_exist_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Shard.parse(text)


def test_more_shards_than_parts_are_refused_in_each_of_them() -> None:
    for number in (1, 3):
        with pytest.raises(ConfigError, match=rf"--shard {number}/3: there are only 2 parts"):
            Shard.parse(f"{number}/3").chosen({"a": 1.0, "b": 1.0})


def test_a_shard_is_read_as_it_is_written() -> None:
    assert str(Shard.parse("2/8")) == "2/8"
    assert [shard_count(text) for text in ("2/8", None, "what")] == ["8", None, "what"]


def test_cells_that_differ_in_more_than_their_mode_are_not_compared() -> None:
    assert compared_with(CELL) == compared_with(replace(CELL, memory_mode="article"))
    others = [replace(CELL, seed=7), replace(CELL, round=2), replace(CELL, batch_size=2), replace(CELL, device="cuda")]
    others.append(replace(CELL, processes=2))
    assert len({compared_with(cell) for cell in (CELL, *others)}) == 6


def test_a_cell_of_a_larger_model_is_expected_to_take_longer() -> None:
    cells = [replace(CELL, workload=name, max_steps=2) for name in ("tiny", "mini", "base", "base-512")]

    times_s = [expected_s(cell) for cell in (*cells, replace(cells[-1], max_steps=20))]

    assert times_s == sorted(times_s) and len(set(times_s)) == 5
