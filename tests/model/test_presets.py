"""Presets: the active share that was set, and no dropout by default."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.batching.batches import TextBatch
from splade_bench.data.records import Triple
from splade_bench.model.presets import build_preset, set_active_share


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_of_active_entries_is_what_was_asked_for(
    tokenizer: Tokenizer, triples: Sequence[Triple], share: float
) -> None:
    encoder = build_preset("toy", tokenizer, seed=0, dropout=0.1).train()
    texts = encoder.tokenize([triple.positive for triple in triples], max_length=16)

    set_active_share(encoder, texts, share)

    assert encoder.training
    with torch.no_grad():
        reps = encoder.eval()(texts)
    assert torch.count_nonzero(reps).item() / reps.numel() == pytest.approx(share, rel=0.02)


def test_dropout_is_off_unless_asked_for(tokenizer: Tokenizer) -> None:
    plain, dropping = (
        build_preset("toy", tokenizer, seed=0, dropout=hidden, attention_dropout=attention).body.config
        for hidden, attention in ((0.0, 0.0), (0.1, 0.2))
    )

    assert (plain.hidden_dropout_prob, plain.attention_probs_dropout_prob) == (0.0, 0.0)
    assert (dropping.hidden_dropout_prob, dropping.attention_probs_dropout_prob) == (0.1, 0.2)


def test_texts_go_to_the_encoders_device_before_the_active_share_is_set(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_to: list[torch.device] = []

    def to(texts: TextBatch, device: torch.device) -> TextBatch:
        moved_to.append(device)
        return texts

    encoder = build_preset("toy", tokenizer, seed=0)
    texts = encoder.tokenize(["open the window"], max_length=8)
    monkeypatch.setattr(TextBatch, "to", to)

    set_active_share(encoder, texts, 0.1)

    assert moved_to == [encoder.device]
