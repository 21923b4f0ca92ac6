"""Queries without a model: the weights of their own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from equality import make_config

from splade_bench.batching.batches import pad
from splade_bench.batching.prompts import Prompts
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError, DataError
from splade_bench.model import SpladeEncoder
from splade_bench.model.static_queries import QUERY_WEIGHTS_NAME, StaticQueries, save_query_weights
from splade_bench.training import Trainer


def test_a_vector_has_the_weight_of_each_token_once_and_none_of_special_tokens() -> None:
    weight = torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0, -1.0])
    queries = StaticQueries(weight, special_tokens=[0, 1])

    vectors = queries(pad([[1, 3, 3, 5], [1, 4]], pad_token_id=0))

    assert vectors.tolist() == [[0, 0, 0, 2.0, 0, 0], [0, 0, 0, 0, 3.0, 0]]


def test_padding_takes_away_no_token_of_the_same_id() -> None:
    queries = StaticQueries(torch.ones(4), special_tokens=[0])

    assert queries(pad([[3, 2], [3]], pad_token_id=3)).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]


def test_the_weights_learn_at_a_rate_of_their_own_and_come_back_from_a_folder(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    config = make_config(query_encoder="static", query_learning_rate=0.5, learning_rate=1e-6, weight_decay=0.0)
    Trainer(encoder, triples, config).train()
    weights = encoder.query_weights
    assert weights is not None
    # The first step of AdamW moves a weight by its learning rate, here at a warm-up of 1 of 1.1 steps.
    moved = (weights.detach() - 1).abs()
    assert moved.max().item() == pytest.approx(0.5, rel=0.2)
    encoder.save_pretrained(tmp_path / "model")

    again = SpladeEncoder.from_pretrained(str(tmp_path / "model"))

    texts = encoder.tokenize(["who opens the window"], max_length=16)
    with torch.no_grad():
        torch.testing.assert_close(again.query_vectors(texts), encoder.query_vectors(texts))
        assert not torch.allclose(again.query_vectors(texts), again(texts))


def test_a_model_keeps_its_static_queries_until_it_is_told_otherwise(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    encoder.use_static_queries()
    Trainer(encoder, triples, make_config())
    assert encoder.static_queries is not None
    Trainer(encoder, triples, make_config(query_encoder="model"))
    assert encoder.static_queries is None


def test_weights_of_another_vocabulary_are_refused(encoder: SpladeEncoder, tmp_path: Path) -> None:
    save_query_weights(tmp_path, StaticQueries(torch.ones(3), []))
    with pytest.raises(
        DataError, match=rf"{QUERY_WEIGHTS_NAME}: has weights of the shape \[3\], but the model has 512"
    ):
        encoder.load_static_queries(str(tmp_path))

    save_query_weights(tmp_path, StaticQueries(torch.full((512,), torch.nan), []))
    with pytest.raises(DataError, match="not finite"):
        encoder.load_static_queries(str(tmp_path))

    (tmp_path / QUERY_WEIGHTS_NAME).write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be read"):
        encoder.load_static_queries(str(tmp_path))


def test_a_folder_with_the_router_that_is_written_here_is_read_here(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.use_static_queries()
    encoder.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Router", "path": ""}]')

    assert SpladeEncoder.from_pretrained(str(tmp_path)).static_queries is not None

    (tmp_path / QUERY_WEIGHTS_NAME).unlink()
    with pytest.raises(ConfigError, match="Router"):
        SpladeEncoder.from_pretrained(str(tmp_path))


def test_a_folder_that_is_written_again_has_no_old_weights_and_prompts(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.use_static_queries()
    encoder.prompts = Prompts("query: ")
    encoder.save_pretrained(tmp_path)
    encoder.static_queries, encoder.prompts = None, Prompts()

    encoder.save_pretrained(tmp_path)

    again = SpladeEncoder.from_pretrained(str(tmp_path))
    assert again.static_queries is None
    assert again.prompts == Prompts()
