"""Texts become vectors in their own order, whatever the windows and batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from splade_bench.batching.prompts import TextKind
from splade_bench.data.records import Triple
from splade_bench.evaluation import encoding
from splade_bench.evaluation.encoding import encode_windows
from splade_bench.model import SpladeEncoder


@pytest.fixture
def texts(triples: Sequence[Triple]) -> list[tuple[str, str]]:
    return [(f"d{number}", triple.positive) for number, triple in enumerate(triples)]


@pytest.mark.parametrize(("window", "batch_size"), [(2048, None), (5, 2), (1, 1)])
def test_each_text_has_the_vector_that_it_has_alone(
    encoder: SpladeEncoder,
    texts: list[tuple[str, str]],
    window: int,
    batch_size: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "WINDOW", window)
    with encoder.evaluating(), torch.no_grad():
        alone = [encoder(encoder.tokenize([text], max_length=16))[0] for _, text in texts]

    windows = list(encode_windows(encoder, iter(texts), "documents", max_length=16, batch_size=batch_size))

    assert [text_id for one in windows for text_id in one.ids] == [text_id for text_id, _ in texts]
    vectors = torch.cat([one.reps.dense(0, len(one.reps)) for one in windows])
    torch.testing.assert_close(vectors, torch.stack(alone))
    assert sum(one.own_entries for one in windows) > 0


def test_a_batch_has_texts_of_a_length_and_texts_are_read_window_by_window(
    encoder: SpladeEncoder, texts: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 16)
    taken: list[str] = []
    lengths: list[list[int]] = []
    tokenize = encoder.tokenize

    def noted(batch: Sequence[str], *, max_length: int, kind: TextKind) -> object:
        lengths.append([len(text) for text in batch])
        return tokenize(batch, max_length=max_length, kind=kind)

    def source() -> object:
        for pair in texts:
            taken.append(pair[0])
            yield pair

    monkeypatch.setattr(encoder, "tokenize", noted)
    windows = encode_windows(encoder, source(), "documents", max_length=16, batch_size=4)

    next(windows)
    assert len(taken) == 16
    assert [length for batch in lengths for length in batch] == sorted(length for batch in lengths for length in batch)
    assert [len(one.ids) for one in windows] == [16] * (len(texts) // 16 - 1)


def test_without_texts_there_are_no_windows(encoder: SpladeEncoder) -> None:
    assert list(encode_windows(encoder, [], "queries", max_length=16)) == []
