"""Retrieval figures of an encoder and of BM25."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.formats import retrieval_dataset
from splade_bench.data.records import RetrievalDataset, Triple
from splade_bench.errors import NotFiniteError
from splade_bench.evaluation import search
from splade_bench.evaluation.evaluator import (
    Retrieval,
    VectorStore,
    _candidate_ranking,
    _Encoded,
    evaluate,
    evaluate_bm25,
)
from splade_bench.evaluation.metrics import Ranking
from splade_bench.evaluation.vector_folder import read_vectors
from splade_bench.evaluation.vectors import SparseReps
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training import Trainer
from splade_bench.training.validation_loss import validation_loss


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


def test_a_collapsed_model_scores_zero_and_that_is_said(
    encoder: SpladeEncoder, dataset: RetrievalDataset, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        encoder.decoder.bias.fill_(-1e4)

    figures = evaluate(encoder, dataset, max_length=16)

    assert "the vectors of all queries are zero" in caplog.text
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


def test_figures_are_the_same_with_vectors_on_the_disk(
    encoder: SpladeEncoder, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    store = VectorStore(folder=tmp_path / "documents", model_name="none")

    assert evaluate(encoder, dataset, max_length=16, store=store) == evaluate(encoder, dataset, max_length=16)
    assert read_vectors(store.folder).ids == list(dataset.corpus)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_refused(
    encoder: SpladeEncoder, dataset: RetrievalDataset, value: float
) -> None:
    with torch.no_grad():
        encoder.decoder.bias[7] = value

    with pytest.raises(NotFiniteError, match="the vectors of queries are not finite"):
        evaluate(encoder, dataset, max_length=16)


class StopHere(Exception):
    """What a caller raises to end an evaluation."""


def test_the_caller_is_asked_before_each_batch_and_may_end_the_evaluation(
    encoder: SpladeEncoder, triples: Sequence[Triple], dataset: RetrievalDataset
) -> None:
    calls: list[int] = []

    def on_batch() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise StopHere

    encoder.train()
    with pytest.raises(StopHere):
        evaluate(encoder, dataset, max_length=16, batch_size=4, on_batch=on_batch)
    assert encoder.training
    calls.clear()
    evaluate(
        encoder,
        replace(dataset, corpus=dict(list(dataset.corpus.items())[:8]), candidates={}),
        max_length=16,
        batch_size=16,
        on_batch=lambda: calls.append(0),
    )
    assert len(calls) == 2 + 1 + 1  # batches of 32 queries and of 8 documents, a pair of blocks
    calls.clear()
    validation_loss(encoder, triples, TrainConfig(max_length=16), on_batch=lambda: calls.append(0))
    assert len(calls) == 1
    calls.clear()
    evaluate_bm25(dataset, on_query=lambda: calls.append(0))
    assert len(calls) == len(dataset.queries)


def test_the_caller_is_asked_while_queries_are_ranked_and_may_end_it(
    encoder: SpladeEncoder, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 8)
    batches = sum(-(-len(texts) // 4) for texts in (dataset.queries, dataset.corpus))
    pairs = -(-len(dataset.queries) // 8) * -(-len(dataset.corpus) // 8)
    calls: list[int] = []

    evaluate(encoder, dataset, max_length=16, batch_size=4, on_batch=lambda: calls.append(0))

    assert len(calls) == batches + pairs + len(dataset.candidates)
    for allowed in (batches + pairs - 1, len(calls) - 1):
        with pytest.raises(IndexError, match="pop from empty list"):
            evaluate(encoder, dataset, max_length=16, batch_size=4, on_batch=([None] * allowed).pop)


def test_the_index_of_candidates_does_not_grow_with_the_corpus() -> None:
    """A Python index of a large corpus would take more than its vectors."""
    documents = 20_000
    ids = [str(number) for number in range(documents)]
    empty = torch.zeros(documents + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32), torch.empty(0), 8
    corpus, query = _Encoded(ids, SparseReps(*empty), 0.0), _Encoded(["q"], SparseReps(empty[0][:2], *empty[1:]), 0.0)
    tracemalloc.start()
    try:
        rankings = list(_candidate_ranking(query, corpus, {"q": ["7", "19999"]}, lambda: None))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert rankings == [("q", {"7": 0.0, "19999": 0.0})]
    assert peak_bytes < 10 * documents


def test_texts_become_token_ids_a_batch_at_a_time(
    encoder: SpladeEncoder, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        method = getattr(encoder, name)

        def note_and_call(*arguments: Any, **keywords: Any) -> Any:
            order.append(name)
            return method(*arguments, **keywords)

        return note_and_call

    for name in ("tokenize", "forward"):
        monkeypatch.setattr(encoder, name, noted(name))

    evaluate(encoder, dataset, max_length=16, batch_size=8)

    assert len(order) > 8
    assert order == ["tokenize", "forward"] * (len(order) // 2)


def test_bm25_finds_documents_that_repeat_the_query(dataset: RetrievalDataset) -> None:
    figures = evaluate_bm25(dataset)

    assert figures is not None
    assert figures["mrr@10"] > 0.5


def test_bm25_has_no_figures_for_a_language_without_spaces(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    dataset = RetrievalDataset(queries={"q": "猫在哪里"}, corpus={"d": "猫坐在垫子上。"}, qrels={"q": {"d": 1}})

    assert evaluate_bm25(dataset) is None
    assert "BM25 has no figures: the documents are in a language without spaces" in caplog.text


@pytest.mark.parametrize("ranker", ["model", "BM25"])
def test_documents_that_are_left_out_are_not_returned(
    encoder: SpladeEncoder, dataset: RetrievalDataset, ranker: str
) -> None:
    def rankings(left_out: dict[str, list[str]], top_k: int) -> dict[str, list[str]]:
        noted: list[Ranking] = []
        how = Retrieval(top_k=top_k, left_out=left_out, on_ranking=noted.append)
        if ranker == "model":
            evaluate(encoder, dataset, max_length=16, retrieval=how)
        else:
            evaluate_bm25(dataset, retrieval=how)
        return {query_id: list(documents) for query_id, documents in noted}

    everything = rankings({}, 100)
    query_id = next(query_id for query_id, documents in everything.items() if len(documents) > 3)
    first, second, *others = everything[query_id]

    found = rankings({query_id: [first]}, 2)

    assert found.keys() == dataset.queries.keys()
    assert found[query_id] == [second, others[0]]
    assert all(len(documents) <= 2 for documents in found.values())


def test_retrieval_flops_are_the_entries_that_a_query_and_a_document_share_in_the_mean(
    encoder: SpladeEncoder, dataset: RetrievalDataset
) -> None:
    def is_active(texts: Sequence[str]) -> torch.Tensor:
        with encoder.evaluating(), torch.no_grad():
            return (encoder(encoder.tokenize(texts, max_length=16)) > 0).double()

    queries, documents = (is_active(list(texts.values())) for texts in (dataset.queries, dataset.corpus))

    figures = evaluate(encoder, dataset, max_length=16)

    assert figures["retrieval_flops"] == pytest.approx((queries @ documents.t()).mean().item())
    assert figures["retrieval_flops"] > 0
