"""A look at the first batch before a training: whether its loss has anything to tell the right answers from."""

from __future__ import annotations

import logging

from splade_bench.batching.sources import TripleSource
from splade_bench.config import TrainConfig

logger = logging.getLogger(__name__)


def report_first_batch(source: TripleSource, config: TrainConfig) -> None:
    """Warn if half of the queries of the first batch, or more, add nothing to the loss.

    That is so with one text in a batch, or with the same answer for all queries: ``contrastive`` leaves right answers
    out of a query's softmax, and no other document is in the batch. Other losses refuse data without negatives.

    Memory: the token ids of a batch.
    """
    if {*config.ranking_weights} != {"contrastive"}:
        return
    batch = next(source.batches(0))
    alone = batch.queries_without_negatives
    if 2 * alone >= batch.all_queries:
        logger.warning(
            "first batch: for %d of %d queries, it has no document that is not an answer, so they learn nothing; add "
            "negatives, or give a larger --batch-size",
            alone,
            batch.all_queries,
        )
