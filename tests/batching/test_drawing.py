"""Which documents an epoch trains on, and what the data says about the scores of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from splade_bench.batching.drawing import draw, targets_of
from splade_bench.batching.sources import TripleBatches
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import DataError
from splade_bench.model import SpladeEncoder

SCORED = Triple(
    query="q",
    positive="p0",
    other_positives=("p1",),
    negatives=("n0", "n1", "n2"),
    teacher_scores=(10.0, 11.0, 0.0, 1.0, 2.0),
)
SCORES = dict(zip(("p0", "p1", "n0", "n1", "n2"), SCORED.teacher_scores, strict=True))


@pytest.mark.parametrize("negatives", [0, 1, 3, 5])
def test_a_positive_and_its_negatives_are_drawn_with_their_teacher_scores(negatives: int) -> None:
    positives = set()
    for seed in range(20):
        own = draw(SCORED, negatives, random.Random(seed))
        positive, *others = own.documents

        positives.add(positive)
        assert len(others) == negatives
        assert {*others} <= {*SCORED.negatives}
        assert len({*others}) == negatives or negatives > 3
        assert own.teacher_scores == tuple(SCORES[text] for text in own.documents)
    assert positives == {"p0", "p1"}


def false_negatives(triples: Sequence[Triple], negatives: int = 1) -> set[tuple[int, int]]:
    """Pairs of query and column of the batch that these triples make."""
    drawn = [draw(triple, negatives, random.Random(0)) for triple in triples]
    marked = targets_of(triples, drawn).false_negatives
    return set() if marked is None else {(row, column) for row, column in marked.nonzero().tolist()}


def triple(query: str, positive: str, *negatives: str, others: tuple[str, ...] = ()) -> Triple:
    return Triple(query=query, positive=positive, negatives=negatives, other_positives=others)


@pytest.mark.parametrize(
    ("triples", "expected"),
    [
        # Columns: positives 0-1, negatives 2-3.
        ([triple("a", "x", "y"), triple("b", "z", "w")], set()),
        ([triple("a", "x", "y"), triple("b", "x", "w")], {(0, 1), (1, 0)}),  # the same answer
        ([triple("a", "x", "y"), triple("b", "z", "x")], {(0, 3)}),  # one's answer is the other's negative
        ([triple("a", "x", "x"), triple("b", "z", "w")], {(0, 2)}),  # its own negative, too
        ([triple("a", "x", "y"), triple("a", "z", "w")], {(0, 1), (1, 0)}),  # the same query with two answers
        ([triple("a", "x", "y"), triple("a", "z", "x")], {(0, 1), (0, 3), (1, 0), (1, 3)}),
    ],
)
def test_equal_texts_are_false_negatives(triples: Sequence[Triple], expected: set[tuple[int, int]]) -> None:
    assert false_negatives(triples) == expected


def test_a_positive_that_was_not_drawn_is_a_false_negative_elsewhere_in_the_batch() -> None:
    asked = triple("a", "x", others=("y", "z"))
    columns = false_negatives([asked, triple("b", "z"), triple("c", "y")], negatives=0)

    assert columns >= {(0, 1), (0, 2)} - {(0, 0)}


def test_there_are_teacher_scores_if_all_triples_have_some() -> None:
    unscored = triple("b", "x", "y")
    drawn = [draw(one, 1, random.Random(0)) for one in (SCORED, unscored)]

    assert targets_of([SCORED], drawn[:1]).teacher_scores is not None
    assert targets_of([SCORED, unscored], drawn).teacher_scores is None


def test_a_batch_has_the_targets_of_its_texts(encoder: SpladeEncoder) -> None:
    triples = [triple("a", "x", "y"), triple("b", "x", "w"), triple("c", "z", "x")]
    config = TrainConfig(batch_size=3, max_length=16)
    (batch,) = TripleBatches.for_config(triples, encoder.tokenizer, config, encoder.device).batches(0)

    assert batch.targets.false_negatives is not None
    rows = [triples[row].positive for row in batch.rows]
    answers_x = [row for row, positive in enumerate(rows) if positive == "x"]
    assert batch.targets.false_negatives[:, :3].nonzero().tolist() == [answers_x, answers_x[::-1]]
    moved = batch.to(torch.device("meta")).targets.false_negatives
    assert moved is not None
    assert moved.device.type == "meta"


def test_missing_teacher_scores_are_an_error_where_the_loss_needs_them(encoder: SpladeEncoder) -> None:
    config = TrainConfig(batch_size=2, max_length=16, loss="kl")
    batches = TripleBatches.for_config([SCORED, triple("b", "x", "y")], encoder.tokenizer, config, encoder.device)

    (batch,) = batches.batches(0)
    with pytest.raises(DataError, match=r"^--loss: the training data has no teacher scores; add them"):
        _ = batch.targets.required_teacher_scores
