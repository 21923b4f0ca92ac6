"""Shares of a batch: together they are the batch that one process has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.shares import Share
from splade_bench.batching.sources import SyntheticBatches

SOURCE = SyntheticBatches(
    batch_size=5,
    max_length=40,
    vocab_size=100,
    negatives_per_query=1,
    batches_per_epoch=3,
    seed=3,
    lengths="real",
    warm_up=True,
)


def texts(batch: TripleBatch) -> list[tuple[Any, ...]]:
    """Token ids of each query with its documents, without padding."""
    groups = [
        [ids[:length] for ids, length in zip(group.input_ids.tolist(), group.lengths, strict=True)]
        for group in batch.groups
    ]
    return [tuple(map(tuple, one)) for one in zip(*groups, strict=True)]


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_the_shares_of_random_texts_are_the_whole_batches(processes: int) -> None:
    shares = [replace(SOURCE, share=Share(rank, processes)) for rank in range(processes)]

    for whole, *parts in zip(SOURCE.batches(1), *(share.batches(1) for share in shares), strict=True):
        assert {part.all_queries for part in parts} == {len(whole)}
        assert sorted(text for part in parts for text in texts(part)) == sorted(texts(whole))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_has_the_texts_in_their_order() -> None:
    assert [texts(batch) for batch in replace(SOURCE, share=Share()).batches(0, start=1)] == [
        texts(batch) for batch in SOURCE.batches(0)
    ][1:]
