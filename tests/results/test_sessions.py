"""The newest session of a results file: one run of pytest, or the shards of one sweep."""

from __future__ import annotations

from splade_bench.results.records import Result
from splade_bench.results.sessions import newest_session


def test_the_newest_session_is_that_of_the_newest_result() -> None:
    old = [Result(session="a", started_at=f"2026-01-0{day}") for day in (1, 2)]
    new = [Result(session="b", started_at=f"2026-01-0{day}") for day in (3, 4)]

    assert newest_session([*new, *old]) == new
    assert newest_session([]) == []


def test_the_shards_of_a_sweep_are_one_session() -> None:
    whole = Result(session="w", started_at="01")
    first, again = (Result(session=name, shard="1/2", started_at=day) for name, day in (("a", "02"), ("b", "04")))
    second = Result(session="c", shard="2/2", started_at="03")
    of_three = Result(session="d", shard="1/3", started_at="02")

    assert newest_session([whole, of_three, first, second, again]) == [second, again]
    assert newest_session([whole, of_three, first, second]) == [first, second]
