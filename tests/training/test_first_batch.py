"""A first batch in which no document is wrong for any query is said before the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
from equality import make_config

from splade_bench.data.records import Triple
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.first_batch import report_first_batch


@pytest.mark.parametrize(
    ("answers", "batch_size", "negatives", "loss", "alone"),
    [
        (1, 4, 0, "contrastive", 4),
        (4, 1, 0, "contrastive", 1),
        (2, 4, 0, "contrastive", None),
        (4, 4, 0, "contrastive", None),
        (4, 1, 1, "contrastive", None),
        (1, 4, 1, "contrastive", None),
        (1, 4, 1, "margin", None),
    ],
)
def test_queries_without_a_wrong_document_are_counted(
    answers: int,
    batch_size: int,
    negatives: int,
    loss: str,
    alone: int | None,
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = [replace(triple, positive=triples[row % answers].positive) for row, triple in enumerate(triples[:4])]
    config = make_config(batch_size=batch_size, negatives_per_query=negatives, loss=loss, seed=1)
    trainer = Trainer(encoder, data, config)

    with caplog.at_level(logging.WARNING):
        report_first_batch(trainer.source, config)

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (alone is not None)
    if lines:
        assert lines[0].startswith(
            f"first batch: for {alone} of {batch_size} queries, it has no document that is not an"
        )
        bare = replace(config, query_regularizer_weight=0.0, document_regularizer_weight=0.0)
        assert Trainer(encoder, data, bare).train().losses[0] == 0
