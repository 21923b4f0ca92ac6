"""SPLADE's training loss: vectors in, scalar terms out.

Shapes: B queries, K negatives each, V vocabulary. Documents are [B * (1 + K), V]: the positives, then each query's
k-th negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.batching.batches import Targets
from splade_bench.device.planned import once_in_plan
from splade_bench.device.products import scores
from splade_bench.objective import Objective
from splade_bench.training.ranking import cosines, ranking_loss
from splade_bench.training.regularizers import Regularizer

# Of the gradient of vectors that is computed at a time.
_COLUMNS = 16384
_NO_TARGETS = Targets()


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


@dataclass(frozen=True, slots=True)
class SpladeLoss:
    """The loss of an objective; a :class:`TrainConfig` is one."""

    objective: Objective

    def __call__(
        self,
        query_reps: Tensor,
        document_reps: Tensor,
        *,
        targets: Targets = _NO_TARGETS,
        regularizer_scale: float = 1.0,
    ) -> LossTerms:
        """Terms for queries [B, V] and documents [B * (1 + K), V]; both regularizers times ``regularizer_scale``."""
        products, squares = scores(query_reps, document_reps), None
        if self.uses_lengths:
            squares = torch.cat([squared_lengths(query_reps), squared_lengths(document_reps)])
        ranking = self._ranking(products, squares, targets)
        return self._terms(ranking, query_reps, document_reps, regularizer_scale)

    @torch.no_grad()
    def with_gradient(
        self,
        reps: Tensor,
        queries: int,
        *,
        targets: Targets = _NO_TARGETS,
        regularizer_scale: float = 1.0,
        gradient_scale: float = 1.0,
    ) -> tuple[LossTerms, Tensor]:
        """The same terms, and their gradient with respect to all vectors, without a graph over vectors.

        A ranking loss is a function of dot products, and for cosines of the vectors' lengths too. So autograd has to
        know only those. Where a vector's entry is 0, the gradient is that of an entry just above 0: the head does not
        read it.

        Args:
            reps: vectors of the queries, then of the documents, [N, V].
            queries: how many of them are queries.
            targets: what the data says about the scores, on the device of ``reps``.
            regularizer_scale: factor of both regularizers.
            gradient_scale: factor of the gradient.

        Memory: the gradient, and up to 16384 columns of the larger part of it.
        """
        query_reps, document_reps = reps[:queries], reps[queries:]
        products = scores(query_reps, document_reps)
        squares = squared_lengths(reps) if self.uses_lengths else None
        ranking, upstream, of_squares = self.ranking_with_gradient(products, squares, targets, gradient_scale)
        gradient = torch.empty_like(reps)
        width = reps.shape[1]
        for start in once_in_plan(range(0, width, _COLUMNS), key=lambda start: min(_COLUMNS, width - start)):
            columns = slice(start, start + _COLUMNS)
            gradient[:queries, columns] = upstream @ document_reps[:, columns]
            gradient[queries:, columns] = upstream.t() @ query_reps[:, columns]
        if of_squares is not None:
            gradient.addcmul_(reps, of_squares[:, None], value=2)
        for regularizer, rows in self.regularizers_of(queries, len(document_reps)):
            regularizer.add_gradient_(gradient[rows], reps[rows], scale=gradient_scale * regularizer_scale)
        return self._terms(ranking, query_reps, document_reps, regularizer_scale), gradient

    @property
    def uses_lengths(self) -> bool:
        """Whether scores depend on the lengths of vectors, beside their dot products."""
        return self.objective.similarity == "cosine"

    @torch.enable_grad()
    def ranking_with_gradient(
        self, products: Tensor, squares: Tensor | None, targets: Targets, scale: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The ranking loss, detached, and ``scale`` times its gradients with respect to ``products`` and ``squares``.

        Args:
            products: dot products of queries and documents, [B, D].
            squares: the squared lengths of all vectors, [B + D]; None if scores do not depend on them.
            targets: what the data says about the scores.
            scale: factor of the gradients.
        """
        inputs = [tensor.requires_grad_() for tensor in (products, squares) if tensor is not None]
        ranking = self._ranking(products, squares, targets)
        upstream, *of_squares = torch.autograd.grad(ranking * scale, inputs)
        return ranking.detach(), upstream, of_squares[0] if of_squares else None

    def _ranking(self, products: Tensor, squares: Tensor | None, targets: Targets) -> Tensor:
        return ranking_loss(products if squares is None else cosines(products, squares), self.objective, targets)

    def regularizers_of(self, queries: int, documents: int) -> Sequence[tuple[Regularizer, slice]]:
        """Of the queries and of the documents, with the rows that each is about; queries come first."""
        of_queries, of_documents = self._regularizers
        regularized = queries + self._regularized(documents, queries)
        return (of_queries, slice(queries)), (of_documents, slice(queries, regularized))

    def _terms(self, ranking: Tensor, query_reps: Tensor, document_reps: Tensor, regularizer_scale: float) -> LossTerms:
        queries = len(query_reps)
        of_queries, of_documents = self._regularizers
        regularized = document_reps[: self._regularized(len(document_reps), queries)]
        return LossTerms(
            ranking=ranking,
            query_regularizer=regularizer_scale * of_queries.value(query_reps),
            document_regularizer=regularizer_scale * of_documents.value(regularized),
            query_active_dims=_active_dims(query_reps),
            document_active_dims=_active_dims(document_reps[:queries]),
        )

    @property
    def _regularizers(self) -> tuple[Regularizer, Regularizer]:
        """Of the queries, and of the documents."""
        objective = self.objective
        name, threshold = objective.regularizer, objective.regularizer_threshold
        return (
            Regularizer(objective.query_regularizer_type or name, objective.query_regularizer_weight, threshold),
            Regularizer(name, objective.document_regularizer_weight, threshold),
        )

    def _regularized(self, documents: int, queries: int) -> int:
        """How many documents are regularized; the positives come first."""
        return queries if self.objective.regularized_documents == "positives" else documents


def squared_lengths(reps: Tensor) -> Tensor:
    """Of vectors [N, V]: [N], without a copy of them."""
    lengths: Tensor = torch.linalg.vector_norm(reps, dim=1)
    return lengths.square()


def _active_dims(reps: Tensor) -> Tensor:
    return torch.count_nonzero(reps.detach()) / len(reps)
