"""SPLADE's training objective: vectors in, scalar terms out.

Shapes: B queries, K negatives each, V vocabulary. Documents are [B * (1 + K), V]: the positives, then each query's
k-th negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.config import TrainConfig
from splade_bench.device.products import scores


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Scalars of one batch, as tensors; the regularizers already carry their weights."""

    ranking: Tensor
    query_regularizer: Tensor
    document_regularizer: Tensor
    query_active_dims: Tensor
    document_active_dims: Tensor

    @property
    def total(self) -> Tensor:
        """The loss that is differentiated."""
        return self.ranking + self.query_regularizer + self.document_regularizer

    def detach(self) -> LossTerms:
        """The same numbers without their graph."""
        return LossTerms(*(getattr(self, name).detach() for name in self.__dataclass_fields__))


def contrastive_loss(query_reps: Tensor, document_reps: Tensor) -> Tensor:
    """Softmax cross-entropy of each query's positive against every other document of the batch (InfoNCE)."""
    products = scores(query_reps, document_reps)  # [B, B * (1 + K)]
    return F.cross_entropy(products, torch.arange(len(products), device=products.device))


def margin_loss(query_reps: Tensor, document_reps: Tensor, *, margin: float) -> Tensor:
    """The article's hinge: mean over negatives of ``relu(margin - positive score + negative score)``."""
    positives, *negatives = document_reps.split(len(query_reps))
    positive_scores = (query_reps * positives).sum(1)  # [B]
    negative_scores = torch.stack([(query_reps * negative).sum(1) for negative in negatives])  # [K, B]
    return F.relu(margin - positive_scores + negative_scores).mean()


def flops_regularizer(reps: Tensor) -> Tensor:
    """Smoothed number of multiplications: ``sum over V of (mean over texts of |weight|)^2`` (Paria et al., 2020)."""
    return reps.abs().mean(0).square().sum()


def l1_regularizer(reps: Tensor) -> Tensor:
    """The article's regularizer: the batch's sum of L1 norms; it grows with the batch."""
    return reps.abs().sum()


_REGULARIZERS = {"flops": flops_regularizer, "l1": l1_regularizer}


@dataclass(frozen=True, slots=True)
class SpladeLoss:
    """The objective of a :class:`TrainConfig`."""

    config: TrainConfig

    def __call__(self, query_reps: Tensor, document_reps: Tensor, *, regularizer_scale: float = 1.0) -> LossTerms:
        """Terms for queries [B, V] and documents [B * (1 + K), V]; both regularizers times ``regularizer_scale``."""
        config = self.config
        if config.loss == "margin":
            ranking = margin_loss(query_reps, document_reps, margin=config.margin)
        else:
            ranking = contrastive_loss(query_reps, document_reps)
        regularizer = _REGULARIZERS[config.regularizer]
        positives = document_reps[: len(query_reps)]
        regularized = positives if config.regularized_documents == "positives" else document_reps
        return LossTerms(
            ranking=ranking,
            query_regularizer=regularizer_scale * config.query_regularizer_weight * regularizer(query_reps),
            document_regularizer=regularizer_scale * config.document_regularizer_weight * regularizer(regularized),
            query_active_dims=_active_dims(query_reps),
            document_active_dims=_active_dims(positives),
        )


def _active_dims(reps: Tensor) -> Tensor:
    return torch.count_nonzero(reps.detach()) / len(reps)
