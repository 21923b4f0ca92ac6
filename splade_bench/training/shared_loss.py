"""The loss of a batch whose texts several processes share: the same numbers and gradients as one process computes.

Each process holds all texts of the batch, but only its slice of the vocabulary. So none holds more than its own
vectors take. The dot products of the slices add up, and so do squared lengths and regularizers. The ranking loss is a
function of the first two; each process computes it for itself.

Shapes: n texts of this process, N of all; B queries of all, D documents of all; V vocabulary. Texts of all processes
are in the order of one batch: queries, positives, k-th negatives, each group by rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from splade_bench.batching.batches import Targets
from splade_bench.device.products import scores
from splade_bench.distributed.group import Group
from splade_bench.distributed.vocabulary import Columns, rows_of_own, slice_of_all
from splade_bench.training.losses import LossTerms, SpladeLoss, squared_lengths

# Columns that are sent at a time.
BLOCK_COLUMNS = 4096
_NO_TARGETS = Targets()


@dataclass(frozen=True, slots=True)
class SharedLoss(SpladeLoss):
    """:class:`SpladeLoss` for the vectors of this process; the targets are those of the whole batch.

    Its terms are those of the whole batch, the same on every process. Its gradient is that of the whole batch's loss
    with respect to this process's vectors: the gradients of weights add up.
    """

    group: Group

    def __call__(
        self,
        query_reps: Tensor,
        document_reps: Tensor,
        *,
        targets: Targets = _NO_TARGETS,
        regularizer_scale: float = 1.0,
    ) -> LossTerms:
        """The terms. The gradient of all of them is behind ``ranking`` alone, so only ``total`` may be differentiated.

        Memory: beside :meth:`with_gradient`, a copy of the vectors.
        """
        terms: list[LossTerms] = []
        inputs = query_reps, document_reps, self, targets, regularizer_scale, terms
        total = cast(Tensor, _Total.apply(*inputs))  # type: ignore[no-untyped-call]
        return LossTerms(total, *(getattr(terms[0], name) for name in [*LossTerms.__dataclass_fields__][1:]))

    @torch.no_grad()
    def with_gradient(  # type: ignore[override]  # the gradient is made block by block
        self,
        reps: Tensor,
        queries: int,
        *,
        targets: Targets = _NO_TARGETS,
        regularizer_scale: float = 1.0,
        gradient_scale: float = 1.0,
    ) -> tuple[LossTerms, Columns]:
        """The terms, and the gradient with respect to this process's vectors.

        Args:
            reps: vectors of this process's queries, then of its documents, [n, V].
            queries: how many of them are queries.
            targets: of the whole batch.
            regularizer_scale: factor of both regularizers.
            gradient_scale: factor of the gradient.

        Memory: as many bytes as ``reps``, and up to four blocks of 4096 columns of them; the scores, [B, D]. Sends the
        vectors and their gradient once, twice the scores, and for cosines twice the lengths.
        """
        batch = _WholeBatch(self.group, reps, queries)
        slices = [batch.slice_of(reps[:, columns]) for columns in batch.blocks]
        products, active = batch.scores_of(slices)
        squares = batch.squared_lengths_of(slices) if self.uses_lengths else None
        ranking, upstream, of_squares = self.ranking_with_gradient(products, squares, targets, 1.0)
        regularizers = self.regularizers_of(batch.queries, batch.texts - batch.queries)
        values = reps.new_zeros(len(regularizers))
        for number, columns in enumerate(batch.blocks):
            part = slices[number]
            query_reps, document_reps = part[: batch.queries], part[batch.queries :]
            gradient = torch.cat([upstream @ document_reps, upstream.t() @ query_reps])
            if of_squares is not None:
                gradient.addcmul_(part, of_squares[:, None], value=2)
            for row, (regularizer, rows) in enumerate(regularizers):
                values[row] += regularizer.value(part[rows], active[rows])
                regularizer.add_gradient_(gradient[rows], part[rows], active[rows], scale=regularizer_scale)
            del part, query_reps, document_reps
            # A slice is not needed any more: its gradient takes its place. It is scaled where it arrives, because in a
            # direct step autograd does so, and a process without texts takes no direct step.
            slices[number] = batch.own_rows_of(gradient, columns.stop - columns.start).mul_(gradient_scale)
            del gradient
        self.group.add_up([values])
        of_queries, of_documents = regularizer_scale * values
        query_active_dims, document_active_dims = batch.active_dims(active)
        return LossTerms(ranking, of_queries, of_documents, query_active_dims, document_active_dims), Columns(slices)


class _WholeBatch:
    """The texts of all processes, and how this one's vectors become its slice of theirs."""

    def __init__(self, group: Group, reps: Tensor, queries: int) -> None:
        by_rank = group.gather([queries, len(reps)])
        self._group = group
        self._rows = [texts for _, texts in by_rank]
        self.queries = sum(own for own, _ in by_rank)
        self.texts = sum(self._rows)
        self.blocks = [
            slice(start, min(start + BLOCK_COLUMNS, reps.shape[1])) for start in range(0, reps.shape[1], BLOCK_COLUMNS)
        ]
        # Rows come by rank and then by group. The batch has them by group and then by rank.
        starts = [sum(self._rows[:rank]) for rank in range(group.size)]
        order = [
            start + part * own + row
            for part in range(self.texts // self.queries)
            for start, (own, _) in zip(starts, by_rank, strict=True)
            for row in range(own)
        ]
        self._order = torch.tensor(order, device=reps.device)
        self._back = self._order.argsort()

    def slice_of(self, own: Tensor) -> Tensor:
        """Own columns [n, w] -> those of all texts that this process takes, [N, w / processes]."""
        return slice_of_all(self._group, own, self._rows)[self._order]

    def own_rows_of(self, columns: Tensor, width: int) -> Tensor:
        """The way back."""
        return rows_of_own(self._group, columns[self._back], self._rows, width=width)

    def scores_of(self, slices: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The scores [B, D] of all columns of all processes, and the active entries of each text, [N]."""
        queries = self.queries
        products = sum(scores(part[:queries], part[queries:]) for part in slices)
        active = sum(torch.count_nonzero(part, dim=1) for part in slices)
        assert isinstance(products, Tensor) and isinstance(active, Tensor)
        active = active.to(products.dtype)
        self._group.add_up([products, active])
        return products, active

    def squared_lengths_of(self, slices: list[Tensor]) -> Tensor:
        """The squared length of each text's vector, [N]."""
        squares = sum(squared_lengths(part) for part in slices)
        assert isinstance(squares, Tensor)
        self._group.add_up([squares])
        return squares

    def active_dims(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """Active entries of a query and of a positive, on average."""
        of_queries, of_positives = active.long()[: 2 * self.queries].split(self.queries)
        return of_queries.sum() / self.queries, of_positives.sum() / self.queries


class _Total(torch.autograd.Function):
    """The ranking loss as its value, and the gradient of the whole loss as its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        query_reps: Tensor,
        document_reps: Tensor,
        loss: SharedLoss,
        targets: Targets,
        regularizer_scale: float,
        terms: list[LossTerms],
    ) -> Tensor:
        reps, ctx.queries = torch.cat([query_reps, document_reps]), len(query_reps)
        found, ctx.gradient = loss.with_gradient(
            reps, ctx.queries, targets=targets, regularizer_scale=regularizer_scale
        )
        terms.append(found)
        return found.ranking.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        of_queries, of_documents = slice(ctx.queries), slice(ctx.queries, None)
        return upstream * gradient[of_queries], upstream * gradient[of_documents], None, None, None, None
