"""Queries that are documents too, as in ArguAna and Quora: each would find itself first. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from splade_bench.data.records import RetrievalDataset


def own_documents(dataset: RetrievalDataset) -> dict[str, Sequence[str]]:
    """Of each query that is a document too, the ids of those documents.

    A document is a query's own if it has the same text, or the same id and the query's text after a title. Case and
    white space do not matter. A document that is judged relevant stays: it is an answer.
    """
    queries = defaultdict(list)
    for query_id, text in dataset.queries.items():
        queries[_normal(text)].append(query_id)
    own: dict[str, list[str]] = defaultdict(list)
    for document_id, text in dataset.corpus.items():
        normal = _normal(text)
        same_id = dataset.queries.get(document_id)
        found = list(queries.get(normal, ()))
        # Equal ids alone say nothing: many collections count queries and documents from 1.
        if same_id is not None and document_id not in found and normal.endswith(f" {_normal(same_id)}"):
            found.append(document_id)
        for query_id in found:
            if dataset.qrels.get(query_id, {}).get(document_id, 0) <= 0:
                own[query_id].append(document_id)
    return dict(own)


def without(ranking: Mapping[str, float], documents: Sequence[str]) -> dict[str, float]:
    """A ranking without these documents."""
    return {document_id: score for document_id, score in ranking.items() if document_id not in documents}


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
