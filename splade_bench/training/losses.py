"""SPLADE's training objective: vectors in, scalar terms out.

Shapes: B queries, K negatives each, V vocabulary. Documents are [B * (1 + K), V]: the positives, then each query's
k-th negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.config import TrainConfig
from splade_bench.device.planned import once_in_plan
from splade_bench.device.products import scores

# Of the gradient of vectors that is computed at a time.
_COLUMNS = 16384


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


def contrastive_loss(products: Tensor) -> Tensor:
    """Softmax cross-entropy of each query's positive against every other document of the batch (InfoNCE).

    Args:
        products: scores of each query with all documents, [B, B * (1 + K)].
    """
    return F.cross_entropy(products, torch.arange(len(products), device=products.device))


def margin_loss(products: Tensor, *, margin: float) -> Tensor:
    """The article's hinge: mean over a query's own negatives of ``relu(margin - positive score + negative score)``.

    Args:
        products: scores of each query with all documents, [B, B * (1 + K)].
        margin: of the hinge.
    """
    queries = len(products)
    own = products.view(queries, -1, queries).diagonal(dim1=0, dim2=2)  # [1 + K, B]
    return F.relu(margin - own[0] + own[1:]).mean()


def flops_regularizer(reps: Tensor) -> Tensor:
    """Smoothed number of multiplications: ``sum over V of (mean over texts of |weight|)^2`` (Paria et al., 2020)."""
    means: Tensor = torch.linalg.vector_norm(reps, 1, dim=0) / len(reps)
    return means.square().sum()


def l1_regularizer(reps: Tensor) -> Tensor:
    """The article's regularizer: the batch's sum of L1 norms; it grows with the batch."""
    norm: Tensor = torch.linalg.vector_norm(reps, 1)
    return norm


@dataclass(frozen=True, slots=True)
class _Regularizer:
    """A regularizer of vectors without negative weights, and its gradient where a weight is above 0.

    Elsewhere the gradient does not matter: the head passes on nothing there.
    """

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    """Broadcast over the texts."""


_REGULARIZERS: Mapping[str, _Regularizer] = MappingProxyType(
    {
        "flops": _Regularizer(flops_regularizer, lambda reps: reps.mean(0) * (2 / len(reps))),
        "l1": _Regularizer(l1_regularizer, lambda reps: reps.new_ones(())),
    }
)


@dataclass(frozen=True, slots=True)
class SpladeLoss:
    """The objective of a :class:`TrainConfig`."""

    config: TrainConfig

    def __call__(self, query_reps: Tensor, document_reps: Tensor, *, regularizer_scale: float = 1.0) -> LossTerms:
        """Terms for queries [B, V] and documents [B * (1 + K), V]; both regularizers times ``regularizer_scale``."""
        ranking = self._ranking(scores(query_reps, document_reps))
        return self._terms(ranking, query_reps, document_reps, regularizer_scale)

    @torch.no_grad()
    def with_gradient(
        self, reps: Tensor, queries: int, *, regularizer_scale: float = 1.0, gradient_scale: float = 1.0
    ) -> tuple[LossTerms, Tensor]:
        """The same terms, and their gradient with respect to all vectors, without a graph over vectors.

        A ranking loss is a function of the scores alone, so autograd has to know only those. Where a vector's entry is
        0, the gradient is that of an entry just above 0: the head does not read it.

        Args:
            reps: vectors of the queries, then of the documents, [N, V].
            queries: how many of them are queries.
            regularizer_scale: factor of both regularizers.
            gradient_scale: factor of the gradient.

        Memory: the gradient, and up to 16384 columns of the larger part of it.
        """
        query_reps, document_reps = reps[:queries], reps[queries:]
        products = scores(query_reps, document_reps).requires_grad_()
        with torch.enable_grad():
            ranking = self._ranking(products)
            (upstream,) = torch.autograd.grad(ranking * gradient_scale, products)
        gradient = torch.empty_like(reps)
        width = reps.shape[1]
        for start in once_in_plan(range(0, width, _COLUMNS), key=lambda start: min(_COLUMNS, width - start)):
            columns = slice(start, start + _COLUMNS)
            gradient[:queries, columns] = upstream @ document_reps[:, columns]
            gradient[queries:, columns] = upstream.t() @ query_reps[:, columns]
        regularized = slice(queries, queries + self._regularized(len(document_reps), queries))
        for rows, weight in (
            (slice(queries), self.config.query_regularizer_weight),
            (regularized, self.config.document_regularizer_weight),
        ):
            factor = gradient_scale * regularizer_scale * weight
            gradient[rows] += factor * _REGULARIZERS[self.config.regularizer].gradient(reps[rows])
        return self._terms(ranking.detach(), query_reps, document_reps, regularizer_scale), gradient

    def _ranking(self, products: Tensor) -> Tensor:
        if self.config.loss == "margin":
            return margin_loss(products, margin=self.config.margin)
        return contrastive_loss(products)

    def _terms(self, ranking: Tensor, query_reps: Tensor, document_reps: Tensor, regularizer_scale: float) -> LossTerms:
        config, regularizer = self.config, _REGULARIZERS[self.config.regularizer].value
        regularized = document_reps[: self._regularized(len(document_reps), len(query_reps))]
        return LossTerms(
            ranking=ranking,
            query_regularizer=regularizer_scale * config.query_regularizer_weight * regularizer(query_reps),
            document_regularizer=regularizer_scale * config.document_regularizer_weight * regularizer(regularized),
            query_active_dims=_active_dims(query_reps),
            document_active_dims=_active_dims(document_reps[: len(query_reps)]),
        )

    def _regularized(self, documents: int, queries: int) -> int:
        """How many documents are regularized; the positives come first."""
        return queries if self.config.regularized_documents == "positives" else documents


def _active_dims(reps: Tensor) -> Tensor:
    return torch.count_nonzero(reps.detach()) / len(reps)
