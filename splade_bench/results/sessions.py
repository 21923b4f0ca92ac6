"""Which results of a file are those of its newest session. The shards of a sweep count as one session."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.grid.shards import shard_count
from splade_bench.results.result import Result


def newest_session(results: Sequence[Result]) -> list[Result]:
    """The results of the newest session; if that is a shard, also of the newest session of each other shard."""
    in_order = sorted(results, key=started_at)
    if not in_order:
        return []
    count = shard_count(in_order[-1].shard)
    session_of = {result.shard: result.session for result in in_order if shard_count(result.shard) == count}
    return [result for result in results if result.session == session_of.get(result.shard, ...)]


def started_at(result: Result) -> str:
    """When it was measured, as text that sorts by time; empty if that is not known."""
    return result.started_at or ""
