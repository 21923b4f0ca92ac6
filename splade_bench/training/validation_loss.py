"""The loss on held-out data, on the same batches for every configuration, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import cut_into_mini_batches
from splade_bench.batching.sources import TripleBatches
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.losses import SpladeLoss

BATCH_SIZE = 32
MAX_BATCHES = 4
_TOKENS_AT_A_TIME = 4096


@torch.no_grad()
def validation_loss(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    config: TrainConfig,
    *,
    on_batch: Callable[[], None] = lambda: None,
) -> float | None:
    """Mean loss, regularizers at full weight, over the first 4 whole batches of 32; None with fewer than 32 triples.

    The batch is part of an in-batch loss, so its size is fixed here and is not the run's.
    ``on_batch`` is called before each batch; what it raises ends the validation.
    """
    # Held-out data has no teacher.
    loss = "contrastive" if config.needs_teacher else config.loss
    fixed = replace(
        config, batch_size=BATCH_SIZE, negatives_per_query=1, seed=0, loss=loss, similarity=encoder.similarity
    )
    whole_batches = min(len(triples) // BATCH_SIZE, MAX_BATCHES)
    if not whole_batches:
        return None
    objective = SpladeLoss(fixed)
    held_out = triples[: whole_batches * BATCH_SIZE]
    source = TripleBatches.for_config(held_out, encoder.tokenizer, fixed, encoder.device, encoder.prompts)
    totals = []
    with encoder.evaluating():
        for batch in source.batches(epoch=0):
            on_batch()
            moved = batch.to(encoder.device)
            reps = _encode(encoder, moved)
            terms = objective(reps[: len(batch)], reps[len(batch) :], targets=moved.targets)
            totals.append(terms.total.item())
    return sum(totals) / len(totals)


def _encode(encoder: SpladeEncoder, batch: TripleBatch) -> Tensor:
    """The vectors of all texts [N, V], in the order of their groups, computed a few at a time."""
    static = encoder.static_queries
    groups = batch.groups if static is None else batch.documents
    mini_batches = cut_into_mini_batches(groups, max_tokens=_TOKENS_AT_A_TIME, max_texts=BATCH_SIZE)
    rows = torch.cat([mini_batch.rows for mini_batch in mini_batches])
    reps = torch.cat([encoder(mini_batch.texts) for mini_batch in mini_batches])[rows.argsort()]
    return reps if static is None else torch.cat([static(batch.queries), reps])
