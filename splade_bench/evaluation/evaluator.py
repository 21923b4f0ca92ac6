"""Encode, rank, score: an encoder and a dataset in, named figures out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.data.bm25 import BM25
from splade_bench.data.records import RetrievalDataset
from splade_bench.errors import NotFiniteError
from splade_bench.evaluation.metrics import RUN_DEPTH, Ranking, evaluate_run
from splade_bench.evaluation.search import SparseReps, top_documents
from splade_bench.model.encoder import SpladeEncoder

logger = logging.getLogger(__name__)

_MAX_BATCH_SIZE = 32
_MAX_BATCH_TOKENS = 4096


def evaluate(
    encoder: SpladeEncoder,
    dataset: RetrievalDataset,
    *,
    max_length: int,
    batch_size: int | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Figures of ``encoder`` on ``dataset``, by name; ``batch_size`` texts at a time, by default 32 or fewer long ones.

    ``on_batch`` is called before each batch of texts is encoded, before each pair of blocks is compared and before each
    query's candidates are; what it raises ends the evaluation.

    * ``mrr@10``, ``p@1`` ... ``recall@100``: every query ranked against the whole corpus;
    * ``candidate_mrr@10``, ``candidate_p@1``, ...: the article's protocol, which is much easier: each query that has
      negatives ranked against its own positives and negatives only;
    * ``query_active_dims``, ``document_active_dims``: mean number of entries above zero;
    * ``query_expansion_ratio``, ``document_expansion_ratio``: share of those that are not tokens of the text itself.

    Memory: a batch and the sparse vectors of all texts, 8 bytes for each active entry, and up to 16 while a buffer that
    is full doubles.

    Raises:
        NotFiniteError: a vector has an entry that is NaN or infinite.
    """
    # A batch of BERT-base takes less than its training took: gradients and moments are freed by now.
    batch_size = batch_size or max(1, min(_MAX_BATCH_SIZE, _MAX_BATCH_TOKENS // max_length))
    with encoder.evaluating():
        queries = _encode(encoder, dataset.queries, max_length, batch_size, on_batch)
        documents = _encode(encoder, dataset.corpus, max_length, batch_size, on_batch)
    for name, texts in (("queries", queries), ("documents", documents)):
        if len(texts.ids) and not len(texts.reps.entries):
            logger.warning("the vectors of all %s are zero, so nothing is found: the model has collapsed", name)
    figures = evaluate_run(_full_ranking(queries, documents, on_batch), dataset.qrels)
    if dataset.candidates:
        judged = {query_id: qrels for query_id, qrels in dataset.qrels.items() if query_id in dataset.candidates}
        rankings = _candidate_ranking(queries, documents, dataset.candidates, on_batch)
        candidate_figures = evaluate_run(rankings, judged)
        figures |= {f"candidate_{name}": value for name, value in candidate_figures.items()}
    return figures | {
        "query_active_dims": queries.reps.active_dims().double().mean().item(),
        "document_active_dims": documents.reps.active_dims().double().mean().item(),
        "query_expansion_ratio": queries.expansion_ratio,
        "document_expansion_ratio": documents.expansion_ratio,
    }


def evaluate_bm25(dataset: RetrievalDataset, *, on_query: Callable[[], None] = lambda: None) -> dict[str, float]:
    """The retrieval metrics of BM25 on the same queries and corpus, for reference.

    ``on_query`` is called before each search; what it raises ends the evaluation.
    """
    index = BM25(dataset.corpus)

    def rankings() -> Iterator[Ranking]:
        for query_id, query in dataset.queries.items():
            on_query()
            yield query_id, index.search(query, top_k=RUN_DEPTH)

    return evaluate_run(rankings(), dataset.qrels)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Texts, shortest first: their ids and vectors, and the share of active entries that are not their own tokens."""

    ids: Sequence[str]
    reps: SparseReps
    expansion_ratio: float


def _encode(
    encoder: SpladeEncoder,
    texts: Mapping[str, str],
    max_length: int,
    batch_size: int,
    on_batch: Callable[[], None],
) -> _Encoded:
    ids = sorted(texts, key=lambda text_id: len(texts[text_id]))
    own_entries = 0

    def dense_blocks() -> Iterator[Tensor]:
        nonlocal own_entries
        for start in range(0, len(ids), batch_size):
            on_batch()
            batch = encoder.tokenize(
                [texts[text_id] for text_id in ids[start : start + batch_size]], max_length=max_length
            )
            vectors = encoder(batch)
            if not vectors.isfinite().all():
                raise NotFiniteError(
                    "the model's vectors are not finite (NaN or infinity), so there is nothing to rank: "
                    "its training diverged, or its weights are too large; choose another model"
                )
            # Scattered, the entry of a token that a text repeats counts once.
            own_weights = vectors.gather(1, batch.input_ids)
            own_entries += int(torch.zeros_like(vectors).scatter(1, batch.input_ids, own_weights).count_nonzero())
            yield vectors

    with torch.no_grad():
        reps = SparseReps.from_dense(dense_blocks())
    expansion_ratio = 1 - own_entries / len(reps.entries) if len(reps.entries) else 0.0
    return _Encoded(ids, reps, expansion_ratio)


def _full_ranking(queries: _Encoded, documents: _Encoded, on_batch: Callable[[], None]) -> Iterator[Ranking]:
    best = top_documents(queries.reps, documents.reps, top_k=RUN_DEPTH, on_block=on_batch)
    for query_id, (scores, rows) in zip(queries.ids, best, strict=True):
        names = (documents.ids[row] for row in rows.tolist())
        yield query_id, dict(zip(names, scores.tolist(), strict=True))


def _candidate_ranking(
    queries: _Encoded,
    documents: _Encoded,
    candidates: Mapping[str, Sequence[str]],
    on_batch: Callable[[], None],
) -> Iterator[Ranking]:
    wanted = set().union(*candidates.values())  # the corpus may have many more documents
    row_of = {document_id: row for row, document_id in enumerate(documents.ids) if document_id in wanted}
    for row, query_id in enumerate(queries.ids):
        if query_id in candidates:
            on_batch()
            query = queries.reps.dense(row, row + 1)[0]
            vectors = {name: documents.reps.dense(row_of[name], row_of[name] + 1)[0] for name in candidates[query_id]}
            yield query_id, {name: float(query @ vector) for name, vector in vectors.items()}
