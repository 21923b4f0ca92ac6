"""Encode, rank, score: an encoder and a dataset in, named figures out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.data.bm25 import BM25
from splade_bench.data.records import RetrievalDataset, Run
from splade_bench.evaluation.metrics import RUN_DEPTH, evaluate_run
from splade_bench.evaluation.search import SparseReps, top_documents
from splade_bench.model.encoder import SpladeEncoder

_MAX_BATCH_SIZE = 32
_MAX_BATCH_TOKENS = 4096


def evaluate(
    encoder: SpladeEncoder, dataset: RetrievalDataset, *, max_length: int, batch_size: int | None = None
) -> dict[str, float]:
    """Figures of ``encoder`` on ``dataset``, by name; ``batch_size`` texts at a time, by default 32 or fewer long ones.

    * ``mrr@10``, ``p@1`` ... ``recall@100``: every query ranked against the whole corpus;
    * ``candidate_mrr@10``, ``candidate_p@1``, ...: the article's protocol, which is much easier: each query that has
      negatives ranked against its own positives and negatives only;
    * ``query_active_dims``, ``document_active_dims``: mean number of entries above zero;
    * ``query_expansion_ratio``, ``document_expansion_ratio``: share of those that are not tokens of the text itself.
    """
    # A batch of BERT-base takes less than its training took: gradients and moments are freed by now.
    batch_size = batch_size or max(1, min(_MAX_BATCH_SIZE, _MAX_BATCH_TOKENS // max_length))
    with encoder.evaluating():
        queries = _encode(encoder, dataset.queries, max_length, batch_size)
        documents = _encode(encoder, dataset.corpus, max_length, batch_size)
    figures = evaluate_run(_full_ranking(queries, documents), dataset.qrels)
    if dataset.candidates:
        candidate_run = _candidate_ranking(queries, documents, dataset.candidates)
        judged = {query_id: qrels for query_id, qrels in dataset.qrels.items() if query_id in candidate_run}
        candidate_figures = evaluate_run(candidate_run, judged)
        figures |= {f"candidate_{name}": value for name, value in candidate_figures.items()}
    return figures | {
        "query_active_dims": queries.reps.active_dims().double().mean().item(),
        "document_active_dims": documents.reps.active_dims().double().mean().item(),
        "query_expansion_ratio": queries.expansion_ratio,
        "document_expansion_ratio": documents.expansion_ratio,
    }


def evaluate_bm25(dataset: RetrievalDataset) -> dict[str, float]:
    """The retrieval metrics of BM25 on the same queries and corpus, for reference."""
    index = BM25(dataset.corpus)
    run = {query_id: index.search(query, top_k=RUN_DEPTH) for query_id, query in dataset.queries.items()}
    return evaluate_run(run, dataset.qrels)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Texts, shortest first: their ids and vectors, and the share of active entries that are not their own tokens."""

    ids: Sequence[str]
    reps: SparseReps
    expansion_ratio: float


def _encode(encoder: SpladeEncoder, texts: Mapping[str, str], max_length: int, batch_size: int) -> _Encoded:
    ids = sorted(texts, key=lambda text_id: len(texts[text_id]))
    own_tokens: list[set[int]] = []

    def dense_blocks() -> Iterator[Tensor]:
        for start in range(0, len(ids), batch_size):
            batch_texts = [texts[text_id] for text_id in ids[start : start + batch_size]]
            batch = encoder.tokenize(batch_texts, max_length=max_length)
            own_tokens.extend(set(row) for row in batch.input_ids.tolist())
            yield encoder(batch)

    with torch.no_grad():
        reps = SparseReps.from_dense(dense_blocks())
    entries = reps.entries.split(reps.active_dims().tolist())
    own_entries = sum(len(own.intersection(row.tolist())) for own, row in zip(own_tokens, entries, strict=True))
    expansion_ratio = 1 - own_entries / len(reps.entries) if len(reps.entries) else 0.0
    return _Encoded(ids, reps, expansion_ratio)


def _full_ranking(queries: _Encoded, documents: _Encoded) -> Run:
    scores, rows = top_documents(queries.reps, documents.reps, top_k=RUN_DEPTH)
    return {
        query_id: {documents.ids[row]: score for row, score in zip(query_rows, query_scores, strict=True)}
        for query_id, query_rows, query_scores in zip(queries.ids, rows.tolist(), scores.tolist(), strict=True)
    }


def _candidate_ranking(queries: _Encoded, documents: _Encoded, candidates: Mapping[str, Sequence[str]]) -> Run:
    row_of = {document_id: row for row, document_id in enumerate(documents.ids)}
    run: dict[str, dict[str, float]] = {}
    for row, query_id in enumerate(queries.ids):
        if query_id in candidates:
            query = queries.reps.dense(row, row + 1)[0]
            vectors = {name: documents.reps.dense(row_of[name], row_of[name] + 1)[0] for name in candidates[query_id]}
            run[query_id] = {name: float(query @ vector) for name, vector in vectors.items()}
    return run
