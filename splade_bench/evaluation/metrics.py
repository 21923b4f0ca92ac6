"""Retrieval metrics, as pure functions of what is relevant and what was returned. No torch.

A run holds only documents with a score above zero: a collapsed model that scores everything 0 has returned nothing
and scores 0, where breaking its ties by document id could as well have given 1. Ties between positive scores are
broken against the system: the relevant document comes last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from splade_bench.data.records import Qrels, Run

RetrievalMetric = Callable[[Sequence[int], Mapping[str, int]], float]
"""Relevance of the ranked documents, best first, and the query's judgements -> a value between 0 and 1."""


def reciprocal_rank(cutoff: int) -> RetrievalMetric:
    """1 / rank of the first relevant document within the cutoff, else 0."""

    def metric(ranked: Sequence[int], judged: Mapping[str, int]) -> float:
        ranks = (rank for rank, relevance in enumerate(ranked[:cutoff], 1) if relevance > 0)
        return 1 / next(ranks, math.inf)

    return metric


def precision(cutoff: int) -> RetrievalMetric:
    """Share of the first ``cutoff`` places that hold a relevant document."""

    def metric(ranked: Sequence[int], judged: Mapping[str, int]) -> float:
        return sum(relevance > 0 for relevance in ranked[:cutoff]) / cutoff

    return metric


def recall(cutoff: int) -> RetrievalMetric:
    """Share of the relevant documents that stand within the cutoff."""

    def metric(ranked: Sequence[int], judged: Mapping[str, int]) -> float:
        relevant = sum(relevance > 0 for relevance in judged.values())
        return sum(relevance > 0 for relevance in ranked[:cutoff]) / relevant if relevant else 0.0

    return metric


def ndcg(cutoff: int) -> RetrievalMetric:
    """Discounted cumulative gain over the best possible one (Järvelin and Kekäläinen 2002, as in trec_eval)."""

    def gain(relevances: Sequence[int]) -> float:
        return sum(max(0, relevance) / math.log2(rank + 1) for rank, relevance in enumerate(relevances, 1))

    def metric(ranked: Sequence[int], judged: Mapping[str, int]) -> float:
        ideal = gain(sorted(judged.values(), reverse=True)[:cutoff])
        return gain(ranked[:cutoff]) / ideal if ideal else 0.0

    return metric


RETRIEVAL_METRICS: Mapping[str, RetrievalMetric] = {
    "mrr@10": reciprocal_rank(10),
    "p@1": precision(1),
    "p@3": precision(3),
    "p@5": precision(5),
    "p@10": precision(10),
    "ndcg@10": ndcg(10),
    "recall@100": recall(100),
}
RUN_DEPTH = 100


def evaluate_run(
    run: Run, qrels: Qrels, metrics: Mapping[str, RetrievalMetric] = RETRIEVAL_METRICS
) -> dict[str, float]:
    """Mean of each metric over the queries of ``qrels``; a query that returned nothing counts 0."""
    totals = dict.fromkeys(metrics, 0.0)
    for query_id, judged in qrels.items():
        ranked = _ranked_relevances(run.get(query_id, {}), judged)
        for name, metric in metrics.items():
            totals[name] += metric(ranked, judged)
    return {name: total / max(1, len(qrels)) for name, total in totals.items()}


def _ranked_relevances(scores: Mapping[str, float], judged: Mapping[str, int]) -> list[int]:
    returned = ((score, judged.get(document_id, 0)) for document_id, score in scores.items() if score > 0)
    ordered = sorted(returned, key=lambda item: (-item[0], item[1]))
    return [relevance for _, relevance in islice(ordered, RUN_DEPTH)]
