"""Retrieval metrics, as pure functions of what is relevant and what was returned. Imports no torch.

Only documents with a score above zero count as returned. So a collapsed model, which scores everything 0, gets 0;
breaking its ties by document id could as well give 1. Ties between positive scores count against the system: the
relevant document comes last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from splade_bench.data.records import Qrels
from splade_bench.errors import ConfigError

Ranking = tuple[str, Mapping[str, float]]
"""A query id, and the documents that a ranker returned for it: document id -> score."""
RetrievalMetric = Callable[[Sequence[int], Mapping[str, int]], float]
"""Relevance of the ranked documents, best first, and the query's judgements -> a value between 0 and 1."""


def reciprocal_rank(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int | None = None) -> float:
    """1 / rank of the first relevant document within the cutoff, else 0."""
    ranks = (rank for rank, relevance in enumerate(ranked[:cutoff], 1) if relevance > 0)
    return 1 / next(ranks, math.inf)


def precision(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """Share of the first ``cutoff`` ranks that have a relevant document."""
    return _relevant(ranked[:cutoff]) / cutoff


def recall(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """Share of the relevant documents that are within the cutoff."""
    relevant = _relevant(judged.values())
    return _relevant(ranked[:cutoff]) / relevant if relevant else 0.0


def success(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int) -> float:
    """1 if a relevant document is within the cutoff, else 0."""
    return float(_relevant(ranked[:cutoff]) > 0)


def average_precision(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int | None = None) -> float:
    """Sum of the precision at the rank of each relevant document within the cutoff, over all relevant documents."""
    relevant, found, total = _relevant(judged.values()), 0, 0.0
    for rank, relevance in enumerate(ranked[:cutoff], 1):
        if relevance > 0:
            found += 1
            total += found / rank
    return total / relevant if relevant else 0.0


def ndcg(ranked: Sequence[int], judged: Mapping[str, int], *, cutoff: int | None = None) -> float:
    """Discounted cumulative gain over the best possible one (Järvelin and Kekäläinen 2002, as in trec_eval)."""
    ideal = _gain(sorted(judged.values(), reverse=True)[:cutoff])
    return _gain(ranked[:cutoff]) / ideal if ideal else 0.0


def _relevant(relevances: Iterable[int]) -> int:
    return sum(relevance > 0 for relevance in relevances)


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

# By their names in the library ir_measures. Those of the second table need a cutoff.
_WITH_OR_WITHOUT_CUTOFF: Mapping[str, Callable[..., float]] = {
    "nDCG": ndcg,
    "RR": reciprocal_rank,
    "AP": average_precision,
}
_WITH_CUTOFF: Mapping[str, Callable[..., float]] = {"P": precision, "R": recall, "Success": success}
_MEASURE = re.compile(r"(\w+)(?:@([1-9]\d{0,8}))?", re.ASCII)


def parse_measures(names: Sequence[str]) -> dict[str, RetrievalMetric]:
    """Metrics by the names that they have in the library ir_measures, such as nDCG@10.

    Raises:
        ConfigError: there is no such metric here.
    """
    metrics: dict[str, RetrievalMetric] = {}
    for name in names:
        match = _MEASURE.fullmatch(name)
        base, cutoff = match.groups() if match else (name, None)
        known = {**_WITH_OR_WITHOUT_CUTOFF, **(_WITH_CUTOFF if cutoff else {})}
        if base not in known:
            alone, with_cutoff = ", ".join(_WITH_OR_WITHOUT_CUTOFF), ", ".join(f"{one}@K" for one in _WITH_CUTOFF)
            raise ConfigError(
                f"--measures {name}: there is no such measure; choose from {alone}, alone or with @K, and {with_cutoff}"
            )
        metrics[name] = partial(known[base], cutoff=int(cutoff) if cutoff else None)
    return metrics


def evaluate_run(
    rankings: Iterable[Ranking],
    qrels: Qrels,
    *,
    metrics: Mapping[str, RetrievalMetric] = RETRIEVAL_METRICS,
    on_ranking: Callable[[Ranking], None] = lambda _: None,
) -> dict[str, float]:
    """Mean of each metric over the queries of ``qrels``. A query that has no ranking, or an empty one, counts 0.

    ``on_ranking`` gets each ranking as it is judged: its documents with a score above zero, best first.

    Only one ranking is held at a time.
    """
    totals = dict.fromkeys(metrics, 0.0)
    for query_id, scores in rankings:
        judged = qrels.get(query_id, {})
        ordered = ordered_documents(scores, judged)
        on_ranking((query_id, ordered))
        ranked = [judged.get(document_id, 0) for document_id in ordered]
        for name, metric in metrics.items():
            totals[name] += metric(ranked, judged)
    return {name: total / max(1, len(qrels)) for name, total in totals.items()}


def ordered_documents(scores: Mapping[str, float], judged: Mapping[str, int]) -> dict[str, float]:
    """The documents with a score above zero, best first; among equal scores the relevant ones last."""
    returned = [document_id for document_id, score in scores.items() if score > 0]
    returned.sort(key=lambda document_id: (-scores[document_id], judged.get(document_id, 0)))
    return {document_id: scores[document_id] for document_id in returned}
