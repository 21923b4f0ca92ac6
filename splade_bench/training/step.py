"""Forward and backward of one batch: gradients are left in the parameters, the loss terms are returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from splade_bench.batching.batches import TextBatch, TripleBatch
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.losses import LossTerms, SpladeLoss

Phase: TypeAlias = Literal["batching", "forward", "loss", "backward", "optimizer_step"]


class StopRequested(Exception):  # noqa: N818 - not an error, as StopIteration
    """The run shall end: the optimizer step under way is abandoned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """What a step needs to know of the optimizer step that it is part of."""

    regularizer_scale: float = 1.0
    gradient_scale: float = 1.0
    """Factor of the batch's gradient."""
    active_share: float = 0.0
    """Expected share of the vectors' entries that are active; see :meth:`SpladeEncoder.forward`."""
    largest_mini_batch: tuple[int, int] | None = None
    """Texts and tokens of the largest mini-batch that the run can have, before its first step: then a cached step
    checks that its activation memory allows one."""
    on_phase: Callable[[Phase], None] = lambda phase: None
    """Called when a part of the step begins."""
    check_stop: Callable[[], None] = lambda: None
    """Called before each mini-batch; raises :class:`StopRequested` to abandon the step."""


BackwardStep: TypeAlias = Callable[[SpladeEncoder, TripleBatch, SpladeLoss, StepContext], LossTerms]
"""Adds the batch's gradient, scaled, to every parameter's ``.grad`` and returns the terms, detached. The batch comes in
the host's memory."""


def direct_step(encoder: SpladeEncoder, batch: TripleBatch, loss: SpladeLoss, context: StepContext) -> LossTerms:
    """The whole batch at once.

    Each group of texts (queries, positives, k-th negatives) has its own forward pass, so it is padded only to its own
    longest text.

    Memory: the activations of the whole batch, from the first forward pass to the end of backward.
    """
    context.on_phase("forward")
    batch = batch.to(encoder.device)

    def encode(texts: TextBatch) -> Tensor:
        context.check_stop()
        reps: Tensor = encoder(texts, active_share=context.active_share)
        return reps

    context.check_stop()
    query_reps = encoder.query_vectors(batch.queries, active_share=context.active_share)  # [B, V]
    document_reps = torch.cat([encode(texts) for texts in batch.documents])  # [B * (1 + K), V]
    context.check_stop()
    context.on_phase("loss")
    terms = loss(query_reps, document_reps, targets=batch.targets, regularizer_scale=context.regularizer_scale)
    context.on_phase("backward")
    (terms.total * context.gradient_scale).backward()
    return terms.detach()
