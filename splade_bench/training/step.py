"""Forward and backward of one batch: gradients are left in the parameters, numbers come back."""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from splade_bench.batching.batches import TripleBatch
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.losses import LossTerms, SpladeLoss

Phase = Literal["batching", "forward", "loss", "backward", "optimizer_step"]


class PhaseListener(Protocol):
    """Told which part of an optimizer step begins."""

    def __call__(self, phase: Phase) -> None: ...


class BackwardStep(Protocol):
    """Forward and backward of one batch, whatever the way there."""

    def __call__(
        self,
        encoder: SpladeEncoder,
        batch: TripleBatch,
        loss: SpladeLoss,
        *,
        regularizer_scale: float,
        gradient_scale: float,
        on_phase: PhaseListener,
    ) -> LossTerms:
        """Add ``gradient_scale`` times the batch's gradient to every parameter's ``.grad``; the terms, detached."""


def direct_step(
    encoder: SpladeEncoder,
    batch: TripleBatch,
    loss: SpladeLoss,
    *,
    regularizer_scale: float,
    gradient_scale: float,
    on_phase: PhaseListener,
) -> LossTerms:
    """The whole batch at once.

    Each group of texts (queries, positives, k-th negatives) is a forward pass of its own, so each is padded only to
    its own longest text.

    Memory: the activations of the whole batch at once, from the first forward pass to the end of backward.
    """
    on_phase("forward")
    query_reps = encoder(batch.queries)  # [B, V]
    document_reps = torch.cat([encoder(documents) for documents in batch.documents])  # [B * (1 + K), V]
    on_phase("loss")
    terms = loss(query_reps, document_reps, regularizer_scale=regularizer_scale)
    on_phase("backward")
    (terms.total * gradient_scale).backward()
    return terms.detach()
