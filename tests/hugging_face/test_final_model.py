"""What splade-bench train saves is a SparseEncoder, as sentence-transformers sees it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra [sentence-transformers]")

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling

from splade_bench.cli.output import OutputFolder
from splade_bench.evaluation.encoding import encode_windows
from splade_bench.hugging_face.streaming import lean
from splade_bench.model import SpladeEncoder

TEXTS = ["who opens the parser", "this function closes the window with a name and a size"]


@pytest.fixture
def final_model(encoder: SpladeEncoder, tmp_path: Path) -> Path:
    output = OutputFolder(tmp_path)
    encoder.tokenizer.model_max_length = 12
    output.save_model(encoder, card="# A model\n")
    return output.model


def test_it_opens_without_a_warning(
    final_model: Path, encoder: SpladeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = SparseEncoder(str(final_model), device="cpu")  # and Python's warnings are errors here

    assert not caplog.records
    assert type(model[1]) is SpladePooling
    assert model.max_seq_length == 12
    assert model.similarity_fn_name == "dot"
    assert model.get_embedding_dimension() == encoder.vocab_size
    with encoder.evaluating(), torch.no_grad():
        expected = encoder(encoder.tokenize(TEXTS, max_length=12))
    torch.testing.assert_close(model.encode(TEXTS, convert_to_sparse_tensor=False), expected, rtol=1e-5, atol=1e-5)


def test_its_similarity_is_what_an_evaluation_ranks_by(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.similarity = "cosine"
    encoder.tokenizer.model_max_length = 12
    output = OutputFolder(tmp_path)
    output.save_model(encoder)

    model = SparseEncoder(str(output.model), device="cpu")

    (window,) = encode_windows(encoder, [(text, text) for text in TEXTS], "documents", max_length=12)
    ranked = window.reps.dense(0, len(TEXTS))
    assert model.similarity_fn_name == "cosine"
    found = model.encode(TEXTS, convert_to_sparse_tensor=False)
    torch.testing.assert_close(model.similarity(found, found), ranked @ ranked.T, rtol=1e-5, atol=1e-5)


def test_queries_without_a_model_are_a_route(encoder: SpladeEncoder, tmp_path: Path) -> None:
    missing = [f"unused{number}" for number in range(encoder.vocab_size - len(encoder.tokenizer))]
    encoder.tokenizer.add_tokens(missing)
    encoder.use_static_queries(torch.rand(encoder.vocab_size) - 0.2)
    encoder.tokenizer.model_max_length = 12
    output = OutputFolder(tmp_path)
    output.save_model(encoder)

    model = SparseEncoder(str(output.model), device="cpu")

    batch = encoder.tokenize(TEXTS, max_length=12)
    with encoder.evaluating(), torch.no_grad():
        queries, documents = encoder.query_vectors(batch), encoder(batch)
    assert queries.any()
    assert max(batch.lengths) == 12  # a text is cut, where both cut it
    torch.testing.assert_close(model.encode_query(TEXTS, convert_to_sparse_tensor=False), queries)
    torch.testing.assert_close(
        model.encode_document(TEXTS, convert_to_sparse_tensor=False), documents, rtol=1e-5, atol=1e-5
    )


def test_it_can_be_trained_on_and_saved_again(final_model: Path, tmp_path: Path) -> None:
    model = lean(SparseEncoder(str(final_model), device="cpu"))

    model.save_pretrained(str(tmp_path / "again"))

    again = SparseEncoder(str(tmp_path / "again"), device="cpu")
    assert again.max_seq_length == 12
    torch.testing.assert_close(again.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense())
