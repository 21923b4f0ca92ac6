"""Retrieval metrics, as pure functions of what is relevant and what was returned. Imports no torch.

Only documents with a score above zero count as returned. So a collapsed model, which scores everything 0, gets 0;
breaking its ties by document id could as well give 1. Ties between positive scores count against the system: the
relevant document comes last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from splade_bench.data.records import Qrels

Ranking = tuple[str, Mapping[str, float]]
"""A query id, and the documents that a ranker returned for it: document id -> score."""
RetrievalMetric = Callable[[Sequence[int], Mapping[str, int]], float]
"""Relevance of the ranked documents, best first, and the query's judgements -> a value between 0 and 1."""


def reciprocal_rank(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """1 / rank of the first relevant document within the cutoff, else 0."""
    ranks = (rank for rank, relevance in enumerate(ranked[:cutoff], 1) if relevance > 0)
    return 1 / next(ranks, math.inf)


def precision(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """Share of the first ``cutoff`` ranks that have a relevant document."""
    return sum(relevance > 0 for relevance in ranked[:cutoff]) / cutoff


def recall(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """Share of the relevant documents that are within the cutoff."""
    relevant = sum(relevance > 0 for relevance in judged.values())
    return sum(relevance > 0 for relevance in ranked[:cutoff]) / relevant if relevant else 0.0


def ndcg(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """Discounted cumulative gain over the best possible one (Järvelin and Kekäläinen 2002, as in trec_eval)."""
    ideal = _gain(sorted(judged.values(), reverse=True)[:cutoff])
    return _gain(ranked[:cutoff]) / ideal if ideal else 0.0


def _gain(relevances: Sequence[int]) -> float:
    return sum(max(0, relevance) / math.log2(rank + 1) for rank, relevance in enumerate(relevances, 1))


RETRIEVAL_METRICS: Mapping[str, RetrievalMetric] = {
    "mrr@10": partial(reciprocal_rank, cutoff=10),
    "p@1": partial(precision, cutoff=1),
    "p@3": partial(precision, cutoff=3),
    "p@5": partial(precision, cutoff=5),
    "p@10": partial(precision, cutoff=10),
    "ndcg@10": partial(ndcg, cutoff=10),
    "recall@100": partial(recall, cutoff=100),
}
RUN_DEPTH = 100


def evaluate_run(rankings: Iterable[Ranking], qrels: Qrels) -> dict[str, float]:
    """Mean of each metric over the queries of ``qrels``. A query that has no ranking, or an empty one, counts 0.

    Only one ranking is held at a time.
    """
    totals = dict.fromkeys(RETRIEVAL_METRICS, 0.0)
    for query_id, scores in rankings:
        judged = qrels.get(query_id, {})
        returned = ((score, judged.get(document_id, 0)) for document_id, score in scores.items() if score > 0)
        ordered = sorted(returned, key=lambda item: (-item[0], item[1]))
        ranked = [relevance for _, relevance in ordered[:RUN_DEPTH]]
        for name, metric in RETRIEVAL_METRICS.items():
            totals[name] += metric(ranked, judged)
    return {name: total / max(1, len(qrels)) for name, total in totals.items()}
