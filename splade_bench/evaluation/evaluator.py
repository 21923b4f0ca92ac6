"""Encode, rank, score: an encoder and a dataset in, named figures out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splade_bench.data.bm25 import BM25
from splade_bench.data.records import RetrievalDataset, Run
from splade_bench.evaluation.metrics import RETRIEVAL_METRICS, RUN_DEPTH, evaluate_run
from splade_bench.evaluation.search import SparseReps, batched, encode, top_documents
from splade_bench.model.encoder import SpladeEncoder

_MAX_BATCH_SIZE = 32
_MAX_BATCH_TOKENS = 4096


def evaluate(
    encoder: SpladeEncoder, dataset: RetrievalDataset, *, max_length: int, batch_size: int | None = None
) -> dict[str, float]:
    """Figures of ``encoder`` on ``dataset``, by name; ``batch_size`` texts at a time, by default 32 or fewer long ones.

    * ``mrr@10``, ``p@1`` ... ``recall@100``: every query ranked against the whole corpus;
    * ``candidate_mrr@10``, ``candidate_p@1``, ...: the article's protocol, each query ranked against its own positive
      and negatives only, which is much easier; of the queries that have negatives;
    * ``query_active_dims``, ``document_active_dims``: mean number of entries above zero;
    * ``query_expansion_ratio``, ``document_expansion_ratio``: share of those that are not tokens of the text itself.
    """
    # So many that a BERT-base keeps below what its training took: gradients and moments are gone by now.
    batch_size = batch_size or max(1, min(_MAX_BATCH_SIZE, _MAX_BATCH_TOKENS // max_length))
    was_training = encoder.training
    encoder.eval()
    try:
        query_ids, query_texts = list(dataset.queries), list(dataset.queries.values())
        document_ids, document_texts = list(dataset.corpus), list(dataset.corpus.values())
        queries, query_expansion = _encode(encoder, query_texts, max_length, batch_size)
        documents, document_expansion = _encode(encoder, document_texts, max_length, batch_size)
    finally:
        encoder.train(was_training)
    figures = evaluate_run(_full_ranking(queries, documents, query_ids, document_ids), dataset.qrels)
    if dataset.candidates:
        candidate_run = _candidate_ranking(queries, documents, query_ids, document_ids, dataset)
        candidate_figures = evaluate_run(candidate_run, {name: dataset.qrels[name] for name in candidate_run})
        figures |= {f"candidate_{name}": value for name, value in candidate_figures.items()}
    return figures | {
        "query_active_dims": queries.active_dims().double().mean().item(),
        "document_active_dims": documents.active_dims().double().mean().item(),
        "query_expansion_ratio": query_expansion,
        "document_expansion_ratio": document_expansion,
    }


def evaluate_bm25(dataset: RetrievalDataset) -> dict[str, float]:
    """The retrieval metrics of BM25 on the same queries and corpus, for reference."""
    index = BM25(dataset.corpus)
    run = {query_id: index.search(query, top_k=RUN_DEPTH) for query_id, query in dataset.queries.items()}
    return evaluate_run(run, dataset.qrels, RETRIEVAL_METRICS)


def _encode(encoder: SpladeEncoder, texts: Sequence[str], max_length: int, batch_size: int) -> tuple[SparseReps, float]:
    """Sparse vectors of ``texts`` in order, and the share of active entries that are no token of their text."""
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    ordered = [texts[row] for row in by_length]
    batches = [encoder.tokenize(batch, max_length=max_length) for batch in batched(ordered, batch_size)]
    reps = encode(encoder, batches)
    own_tokens = (set(row.tolist()) for batch in batches for row in batch.input_ids.cpu())
    entries = reps.entries.split(reps.active_dims().tolist())
    echoed = sum(len(own.intersection(row.tolist())) for own, row in zip(own_tokens, entries, strict=True))
    expansion = 1 - echoed / len(reps.entries) if len(reps.entries) else 0.0
    return _reordered(reps, by_length), expansion


def _reordered(reps: SparseReps, position_of_row: Sequence[int]) -> SparseReps:
    """The rows of ``reps`` moved to where ``position_of_row`` says they came from."""
    counts = reps.active_dims()
    sources = torch.argsort(torch.tensor(position_of_row))
    pieces_entries, pieces_values = reps.entries.split(counts.tolist()), reps.values.split(counts.tolist())
    return SparseReps(
        row_starts=torch.cat([torch.zeros(1, dtype=torch.int64), counts[sources].cumsum(0)]),
        entries=torch.cat([pieces_entries[source] for source in sources.tolist()]),
        values=torch.cat([pieces_values[source] for source in sources.tolist()]),
        vocab_size=reps.vocab_size,
    )


def _full_ranking(
    queries: SparseReps, documents: SparseReps, query_ids: Sequence[str], document_ids: Sequence[str]
) -> Run:
    scores, rows = top_documents(queries, documents, top_k=RUN_DEPTH)
    return {
        query_id: {document_ids[row]: score for row, score in zip(query_rows, query_scores, strict=True)}
        for query_id, query_rows, query_scores in zip(query_ids, rows.tolist(), scores.tolist(), strict=True)
    }


def _candidate_ranking(
    queries: SparseReps,
    documents: SparseReps,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    dataset: RetrievalDataset,
) -> Run:
    row_of = {document_id: row for row, document_id in enumerate(document_ids)}
    run: dict[str, dict[str, float]] = {}
    for row, query_id in enumerate(query_ids):
        if query_id not in dataset.candidates:
            continue
        query = queries.dense(row, row + 1)[0]
        candidates = dataset.candidates[query_id]
        blocks = [documents.dense(row_of[name], row_of[name] + 1)[0] for name in candidates]
        run[query_id] = {name: float(query @ block) for name, block in zip(candidates, blocks, strict=True)}
    return run
