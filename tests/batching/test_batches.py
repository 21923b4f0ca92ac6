"""Batches from triples and from random token ids: what is in them, how wide they are, and when they repeat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from splade_bench.batching.batches import TripleBatch, pad
from splade_bench.batching.sources import SyntheticBatches, TripleBatches
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.model import SpladeEncoder


def batches_of(encoder: SpladeEncoder, triples: Sequence[Triple], epoch: int, **changes: Any) -> list[TripleBatch]:
    config = TrainConfig(**{"batch_size": 5, "max_length": 16, "seed": 3} | changes)
    return list(TripleBatches.for_config(triples, encoder.tokenizer, config, encoder.device).batches(epoch))


def test_padding_fills_to_the_longest_text_or_the_given_width() -> None:
    batch = pad([[5, 6, 7], [8]], pad_token_id=0)

    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.lengths == (3, 1)
    assert pad([[5]], pad_token_id=9, width=3).input_ids.tolist() == [[5, 9, 9]]


def test_texts_without_any_token_are_padded_to_one() -> None:
    batch = pad([[], []], pad_token_id=3)

    assert batch.input_ids.tolist() == [[3], [3]]
    assert batch.attention_mask.tolist() == [[0], [0]]
    assert batch.lengths == (0, 0)


def test_an_epoch_holds_every_query_once_and_ends_with_a_shorter_batch(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    batches = batches_of(encoder, triples, epoch=0)

    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 5, 5, 2]
    queries = [
        tuple(row.tolist())
        for batch in batches
        for row in torch.nn.functional.pad(batch.queries.input_ids, (0, 16 - batch.queries.input_ids.shape[1]))
    ]
    assert len(set(queries)) == len(triples)


def test_batches_depend_on_seed_and_epoch_and_on_nothing_else(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    first, again = (batches_of(encoder, triples, epoch=1)[0].queries.input_ids for _ in range(2))
    other_epoch = batches_of(encoder, triples, epoch=2)[0].queries.input_ids
    other_seed = batches_of(encoder, triples, epoch=1, seed=4)[0].queries.input_ids

    assert torch.equal(first, again)
    assert first.tolist() != other_epoch.tolist()
    assert first.tolist() != other_seed.tolist()


def test_each_query_has_its_positive_and_k_negatives(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    for count in (0, 1, 2, 3):  # 3 is more than there are: some repeat
        batch = batches_of(encoder, triples, epoch=0, negatives_per_query=count)[0]

        assert len(batch.documents) == 1 + count
        assert all(len(documents.lengths) == len(batch) for documents in batch.documents)


def test_positives_and_negatives_are_the_querys_own(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    def ids(text: str) -> list[int]:
        return list(encoder.tokenizer([text], truncation=True, max_length=16)["input_ids"][0])

    triple_of = {tuple(ids(triple.query)): triple for triple in triples}
    for batch in batches_of(encoder, triples, epoch=0, negatives_per_query=2):
        for row in range(len(batch)):
            query, positive, *negatives = (
                group.input_ids[row, : group.lengths[row]].tolist() for group in (batch.queries, *batch.documents)
            )
            own = triple_of.pop(tuple(query))
            assert positive == ids(own.positive)
            assert sorted(negatives) == sorted(map(ids, own.negatives)), "both, and neither twice"
    assert not triple_of


def as_numbers(batch: TripleBatch) -> list[Any]:
    return [batch.rows, *(group.input_ids.tolist() for group in batch.groups)]


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7, 99])
def test_an_epoch_begins_at_any_batch(encoder: SpladeEncoder, triples: Sequence[Triple], start: int) -> None:
    config = TrainConfig(batch_size=5, max_length=16, seed=3, negatives_per_query=1)
    source = TripleBatches.for_config(triples, encoder.tokenizer, config, encoder.device)
    synthetic = SyntheticBatches(
        batch_size=3, max_length=8, vocab_size=50, negatives_per_query=1, batches_per_epoch=6, seed=0, warm_up=True
    )
    for one in (source, synthetic):
        whole = [as_numbers(batch) for batch in one.batches(1)]
        assert [as_numbers(batch) for batch in one.batches(1, start=start)] == whole[start:]


def test_skipped_batches_are_not_read(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    read = []

    class Watched(list[Triple]):
        def __getitem__(self, row: Any) -> Any:
            read.append(row)
            return super().__getitem__(row)

    source = TripleBatches(Watched(triples), encoder.tokenizer, TrainConfig(batch_size=5, max_length=16))
    batch = next(source.batches(0, start=4))

    assert tuple(read) == batch.rows


def test_the_order_is_that_of_a_shuffled_list(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    expected = list(range(len(triples)))
    random.Random("3/2").shuffle(expected)

    assert [row for batch in batches_of(encoder, triples, epoch=2) for row in batch.rows] == expected


def test_negatives_are_drawn_anew_in_each_epoch(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    def negative_of_first_row(epoch: int) -> list[int]:
        for batch in batches_of(encoder, triples, epoch=epoch, negatives_per_query=1):
            if 0 in batch.rows:
                row, negatives = batch.rows.index(0), batch.documents[1]
                return negatives.input_ids[row, : negatives.lengths[row]].tolist()
        raise AssertionError("row 0 is in no batch")

    assert len({tuple(negative_of_first_row(epoch)) for epoch in range(12)}) == len(triples[0].negatives)


def test_a_batch_names_its_records_on_every_device(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    source = TripleBatches(triples, encoder.tokenizer, TrainConfig(batch_size=5, max_length=16))
    batch = next(source.batches(0))

    assert batch.to(encoder.device).rows == batch.rows
    queries = [
        encoder.tokenizer([triples[row].query], truncation=True, max_length=16)["input_ids"][0] for row in batch.rows
    ]
    assert [
        ids[:length] for ids, length in zip(batch.queries.input_ids.tolist(), batch.queries.lengths, strict=True)
    ] == queries
    assert source.record_name(0) == "record 1"


def test_synthetic_batches_are_full_length_and_repeatable() -> None:
    source = SyntheticBatches(
        batch_size=3, max_length=8, vocab_size=50, negatives_per_query=1, batches_per_epoch=2, seed=0
    )

    first, again = (list(source.batches(0)) for _ in range(2))

    assert len(first) == 2
    assert first[0].queries.attention_mask.all()
    assert all(torch.equal(a.queries.input_ids, b.queries.input_ids) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].queries.input_ids, next(islice(source.batches(1), 1)).queries.input_ids)


def test_synthetic_texts_of_real_lengths_are_short_queries_and_longer_documents() -> None:
    source = SyntheticBatches(
        batch_size=400,
        max_length=256,
        vocab_size=50,
        negatives_per_query=1,
        batches_per_epoch=1,
        seed=0,
        lengths="real",
    )

    (batch,) = source.batches(0)

    assert min(batch.queries.lengths) == 4
    assert max(batch.queries.lengths) == 20
    documents = [length for group in batch.documents for length in group.lengths]
    assert len(documents) == 800
    assert max(documents) == 256  # cut
    assert 70 <= sorted(documents)[400] <= 80


def test_synthetic_texts_of_real_lengths_are_padded_as_any_others() -> None:
    longest = SyntheticBatches(
        batch_size=4, max_length=256, vocab_size=50, negatives_per_query=1, batches_per_epoch=1, seed=0, lengths="real"
    )
    (by_longest,), (by_limit,) = (source.batches(0) for source in (longest, replace(longest, padding="max_length")))

    assert by_longest.queries.input_ids.shape[1] == max(by_longest.queries.lengths)
    assert by_limit.queries.input_ids.shape[1] == 256
    assert by_limit.lengths == by_longest.lengths


def test_a_warm_up_batch_of_few_tokens_comes_before_the_others() -> None:
    source = SyntheticBatches(
        batch_size=3, max_length=32, vocab_size=50, negatives_per_query=1, batches_per_epoch=2, seed=0, warm_up=True
    )

    warm_up, *others = source.batches(0)

    assert (len(warm_up), warm_up.queries.lengths) == (1, (8,))
    assert [len(batch) for batch in others] == [3, 3]
