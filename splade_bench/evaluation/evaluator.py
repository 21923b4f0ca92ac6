"""Encode, rank, score: an encoder and a dataset in, named figures out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from splade_bench.batching.prompts import TextKind
from splade_bench.data.bm25 import BM25, has_spaced_words
from splade_bench.data.records import RetrievalDataset
from splade_bench.errors import ConfigError
from splade_bench.evaluation.encoding import Window, encode_windows
from splade_bench.evaluation.metrics import RETRIEVAL_METRICS, RUN_DEPTH, Ranking, RetrievalMetric, evaluate_run
from splade_bench.evaluation.own_texts import without
from splade_bench.evaluation.search import larger_ids_first, top_documents
from splade_bench.evaluation.vector_folder import VectorManifest, read_vectors, write_vectors
from splade_bench.evaluation.vectors import SparseReps, SparseRows
from splade_bench.files import not_written
from splade_bench.model.encoder import SpladeEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorStore:
    """Where the vectors of documents are kept while they are searched, as ``splade-bench encode`` writes them."""

    folder: Path
    model_name: str
    """What encoded them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """How queries are ranked against the whole corpus, and who sees the rankings."""

    top_k: int = RUN_DEPTH
    """Documents that a query returns, at most."""
    left_out: Mapping[str, Sequence[str]] | None = None
    """Of a query's id, the ids of documents that it does not return."""
    measures: Mapping[str, RetrievalMetric] = field(default_factory=dict)
    """Further metrics, by name."""
    on_ranking: Callable[[Ranking], None] = lambda _: None
    """Gets each ranking, as :func:`evaluate_run` judges it."""

    @property
    def metrics(self) -> Mapping[str, RetrievalMetric]:
        return {**RETRIEVAL_METRICS, **self.measures}

    def not_returned(self, query_id: str) -> Sequence[str]:
        return (self.left_out or {}).get(query_id, ())


def evaluate(
    encoder: SpladeEncoder,
    dataset: RetrievalDataset,
    *,
    max_length: int,
    batch_size: int | None = None,
    retrieval: Retrieval | None = None,
    store: VectorStore | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Figures of ``encoder`` on ``dataset``, by name; ``batch_size`` texts at a time, by default 32 or fewer long ones.

    ``on_batch`` is called before each batch of texts is encoded, before each pair of blocks is compared and before each
    query's candidates are; what it raises ends the evaluation.

    * ``mrr@10``, ``p@1`` ... ``recall@100``: every query ranked against the whole corpus;
    * ``candidate_mrr@10``, ``candidate_p@1``, ...: the article's protocol, which is much easier: each query that has
      negatives ranked against its own positives and negatives only;
    * ``query_active_dims``, ``document_active_dims``: mean number of entries above zero;
    * ``query_expansion_ratio``, ``document_expansion_ratio``: share of those that are not tokens of the text itself;
    * ``retrieval_flops``: entries that a query and a document have in common, in the mean (Paria et al. 2020).

    Memory: a batch, the sparse vectors of a window of texts, and those of all queries, 8 bytes for each active entry,
    and up to 16 while a buffer that is full doubles. Those of documents are in ``store``, or in memory too.

    Raises:
        NotFiniteError: a vector has an entry that is NaN or infinite.
        ConfigError: the vectors cannot be written to ``store``.
    """
    retrieval = retrieval or Retrieval()
    encode = partial(_encode, encoder, max_length=max_length, batch_size=batch_size, on_batch=on_batch)
    queries, documents = encode(dataset.queries, "queries"), encode(dataset.corpus, "documents", store=store)
    for name, texts in (("queries", queries), ("documents", documents)):
        if len(texts.ids) and not len(texts.reps.entries):
            logger.warning("the vectors of all %s are zero, so nothing is found: the model has collapsed", name)
    rankings = _full_ranking(queries, documents, retrieval, on_batch)
    figures = evaluate_run(rankings, dataset.qrels, metrics=retrieval.metrics, on_ranking=retrieval.on_ranking)
    if dataset.candidates:
        judged = {query_id: qrels for query_id, qrels in dataset.qrels.items() if query_id in dataset.candidates}
        candidate_rankings = _candidate_ranking(queries, documents, dataset.candidates, on_batch)
        candidate_figures = evaluate_run(
            ((name, without(scores, retrieval.not_returned(name))) for name, scores in candidate_rankings), judged
        )
        figures |= {f"candidate_{name}": value for name, value in candidate_figures.items()}
    return figures | {
        "query_active_dims": queries.reps.active_dims().double().mean().item(),
        "document_active_dims": documents.reps.active_dims().double().mean().item(),
        "query_expansion_ratio": queries.expansion_ratio,
        "document_expansion_ratio": documents.expansion_ratio,
        "retrieval_flops": float(queries.reps.activation_shares() @ documents.reps.activation_shares()),
    }


def evaluate_bm25(
    dataset: RetrievalDataset,
    *,
    retrieval: Retrieval | None = None,
    on_query: Callable[[], None] = lambda: None,
) -> dict[str, float] | None:
    """The retrieval metrics of BM25 on the same queries and corpus, for reference.

    None if the texts are in a language that is written without spaces: BM25 here counts words, and would find none.

    ``on_query`` is called before each search; what it raises ends the evaluation.
    """
    if not has_spaced_words(dataset.corpus.values()):
        logger.info("BM25 has no figures: the documents are in a language without spaces, so they have no words for it")
        return None
    how = retrieval or Retrieval()
    index = BM25(dataset.corpus)

    def rankings() -> Iterator[Ranking]:
        for query_id, query in dataset.queries.items():
            on_query()
            not_returned = how.not_returned(query_id)
            found = index.search(query, top_k=how.top_k + len(not_returned), larger_ids_first=True)
            found = without(found, not_returned)
            yield query_id, dict(list(found.items())[: how.top_k])

    return evaluate_run(rankings(), dataset.qrels, metrics=how.metrics, on_ranking=how.on_ranking)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Texts in their order: ids and vectors, and the share of active entries that are not their own tokens."""

    ids: Sequence[str]
    reps: SparseReps
    expansion_ratio: float


def _encode(
    encoder: SpladeEncoder,
    texts: Mapping[str, str],
    kind: TextKind,
    *,
    max_length: int,
    batch_size: int | None,
    on_batch: Callable[[], None],
    store: VectorStore | None = None,
) -> _Encoded:
    own_entries = 0

    def windows() -> Iterator[Window]:
        nonlocal own_entries
        for window in encode_windows(
            encoder, texts.items(), kind, max_length=max_length, batch_size=batch_size, on_batch=on_batch
        ):
            own_entries += window.own_entries
            yield window

    ids, reps = _stored(windows(), store, encoder, kind, max_length) if store else _in_memory(windows(), encoder)
    expansion_ratio = 1 - own_entries / len(reps.entries) if len(reps.entries) else 0.0
    return _Encoded(ids, reps, expansion_ratio)


def _in_memory(windows: Iterable[Window], encoder: SpladeEncoder) -> tuple[Sequence[str], SparseReps]:
    ids: list[str] = []
    rows = SparseRows(encoder.vocab_size)
    for window in windows:
        ids += window.ids
        rows.extend(window.reps)
    return ids, rows.reps()


def _stored(
    windows: Iterable[Window], store: VectorStore, encoder: SpladeEncoder, kind: TextKind, max_length: int
) -> tuple[Sequence[str], SparseReps]:
    manifest = VectorManifest.of(encoder, kind, model_name=store.model_name, max_length=max_length)
    try:
        write_vectors(store.folder, windows, manifest)
    except OSError as error:
        raise ConfigError(f"--vectors {store.folder}: {not_written(store.folder, error)}") from error
    found = read_vectors(store.folder)
    return found.ids, found.reps


def _full_ranking(
    queries: _Encoded, documents: _Encoded, retrieval: Retrieval, on_batch: Callable[[], None]
) -> Iterator[Ranking]:
    best = top_documents(
        queries.reps,
        documents.reps,
        top_k=retrieval.top_k,
        places=larger_ids_first(documents.ids),
        left_out=_rows_left_out(queries.ids, documents.ids, retrieval.left_out),
        on_block=on_batch,
    )
    for query_id, (scores, rows) in zip(queries.ids, best, strict=True):
        yield query_id, {documents.ids[row]: score for score, row in zip(scores.tolist(), rows.tolist(), strict=True)}


def _rows_left_out(
    query_ids: Sequence[str], document_ids: Sequence[str], left_out: Mapping[str, Sequence[str]] | None
) -> dict[int, list[int]]:
    if not left_out:
        return {}
    wanted = {name for names in left_out.values() for name in names}
    row_of = {name: row for row, name in enumerate(document_ids) if name in wanted}
    rows = enumerate(query_ids)
    return {row: [row_of[name] for name in left_out[query_id]] for row, query_id in rows if query_id in left_out}


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
