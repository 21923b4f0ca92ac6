"""What the vectors are before a training: dense, dead or healthy, with the flag that changes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch

from splade_bench.data.records import Triple, at_equal_distances
from splade_bench.model import SpladeEncoder
from splade_bench.training.first_vectors import FirstVectors, Side, first_vectors, report_first_vectors

MAX_LENGTH = 16


def shift_bias(encoder: SpladeEncoder, shift: float) -> None:
    with torch.no_grad():
        encoder.decoder.bias.add_(shift)


@pytest.mark.parametrize(
    ("shift", "state", "advice"),
    [(0.0, "healthy", None), (1e4, "dense", "add --start calibrated"), (-1e4, "dead", "add --start calibrated")],
)
def test_one_line_says_what_the_vectors_are_and_what_to_do(
    shift: float,
    state: str,
    advice: str | None,
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shift_bias(encoder, shift)

    with caplog.at_level(logging.INFO):
        record = report_first_vectors(encoder, triples, max_length=MAX_LENGTH)

    (line,) = caplog.records
    assert line.getMessage().startswith(f"first vectors: {state}: a query has ")
    assert line.levelno == (logging.WARNING if advice else logging.INFO)
    assert (advice or "own words") in line.getMessage()
    assert ("--start" in line.getMessage()) == bool(advice)
    assert record["state"] == state


def test_the_figures_are_those_of_the_vectors(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    found = first_vectors(encoder, triples[:1], max_length=MAX_LENGTH).document

    batch = encoder.tokenize([triples[0].positive], max_length=MAX_LENGTH)
    with torch.no_grad():
        (vector,) = encoder.eval()(batch)
    own = sorted({*batch.input_ids[0].tolist()} - {*encoder.tokenizer.all_special_ids})
    active = {*vector.nonzero().flatten().tolist()}
    assert found.active_dims == len(active)
    assert found.own_words_active_share == len(active & {*own}) / len(own) > 0.5
    assert found.expansion_ratio == pytest.approx(1 - len(active & {*own}) / len(active))


@pytest.mark.parametrize(
    ("query", "document", "state"),
    [
        (30, 150, "healthy"),
        (1, 499, "healthy"),
        (0.9, 150, "dead"),
        (30, 0, "dead"),
        (30, 500, "dense"),
        (0, 500, "dense"),
    ],
)
def test_the_worse_side_decides(query: float, document: float, state: str) -> None:
    sides = [Side(active_dims=dims, expansion_ratio=0, own_words_active_share=1) for dims in (query, document)]

    assert FirstVectors(vocab_size=1000, query=sides[0], document=sides[1]).state == state


def test_a_sample_is_spread_over_the_data(triples: Sequence[Triple]) -> None:
    assert [*at_equal_distances(triples, 4)] == [triples[0], triples[8], triples[16], triples[24]]
    assert [*at_equal_distances(triples[:3], 16)] == triples[:3]
