"""Retrieval figures of an encoder and of BM25."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.formats import retrieval_dataset
from splade_bench.data.records import RetrievalDataset, Triple
from splade_bench.evaluation.evaluator import evaluate, evaluate_bm25
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training import Trainer


@pytest.fixture
def dataset(triples: Sequence[Triple]) -> RetrievalDataset:
    return retrieval_dataset(list(triples))


def test_a_trained_model_ranks_better_than_an_untrained_one(
    encoder: SpladeEncoder, triples: Sequence[Triple], dataset: RetrievalDataset
) -> None:
    before = evaluate(encoder, dataset, max_length=16)
    Trainer(encoder, triples, TrainConfig(epochs=10, learning_rate=1e-3, max_length=16)).train()
    after = evaluate(encoder, dataset, max_length=16)

    assert after["mrr@10"] > before["mrr@10"]
    assert after["candidate_mrr@10"] >= after["mrr@10"]
    assert encoder.training


def test_a_collapsed_model_scores_zero(encoder: SpladeEncoder, dataset: RetrievalDataset) -> None:
    with torch.no_grad():
        encoder.decoder.bias.fill_(-1e4)

    figures = evaluate(encoder, dataset, max_length=16)

    assert figures["mrr@10"] == figures["p@1"] == figures["ndcg@10"] == figures["candidate_mrr@10"] == 0.0
    assert figures["query_active_dims"] == figures["document_active_dims"] == 0.0


def test_expansion_is_the_share_of_entries_that_are_no_token_of_the_text(
    tokenizer: Tokenizer, dataset: RetrievalDataset
) -> None:
    encoder = build_preset("tiny", tokenizer, seed=0)  # wide enough that it starts as roughly an echo
    figures = evaluate(encoder, dataset, max_length=16)
    with torch.no_grad():
        encoder.decoder.bias.fill_(1e3)
    every_entry = evaluate(encoder, dataset, max_length=16)

    assert 0 <= figures["query_expansion_ratio"] < 0.3
    assert every_entry["query_expansion_ratio"] > 0.99
    assert every_entry["query_active_dims"] == encoder.vocab_size


def test_a_query_without_negatives_has_no_part_in_the_candidates_figures(
    encoder: SpladeEncoder, triples: Sequence[Triple], dataset: RetrievalDataset
) -> None:
    with_a_pair = retrieval_dataset([*triples, Triple(query="a query", positive="which has no negatives")])

    alone, beside = (evaluate(encoder, each, max_length=16) for each in (dataset, with_a_pair))

    names = [name for name in alone if name.startswith("candidate_")]
    assert names
    assert {name: beside[name] for name in names} == pytest.approx({name: alone[name] for name in names})
    assert len(with_a_pair.candidates) == len(with_a_pair.queries) - 1


def test_figures_do_not_depend_on_the_batch_size(encoder: SpladeEncoder, dataset: RetrievalDataset) -> None:
    one, many = (evaluate(encoder, dataset, max_length=16, batch_size=size) for size in (1, 50))

    assert one == pytest.approx(many)


def test_bm25_finds_documents_that_repeat_the_query(dataset: RetrievalDataset) -> None:
    assert evaluate_bm25(dataset)["mrr@10"] > 0.5
