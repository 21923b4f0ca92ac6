"""Regularizers: how much a batch's vectors cost in a search, and its gradient in closed form.

Shapes: N texts, V vocabulary. Vectors have no negative entries, so each regularizer is a function of the sums over
texts [V]. The gradients hold where an entry is above 0; elsewhere they do not matter, because the head passes on
nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from splade_bench.objective import RegularizerName


@dataclass(frozen=True, slots=True)
class _Formula:
    """A regularizer of the sums [V] over N texts, and its gradient with respect to an entry of each column."""

    value: Callable[[Tensor, int], Tensor]
    gradient: Callable[[Tensor, int], Tensor]
    """[V] or a scalar."""


_FORMULAS: Mapping[RegularizerName, _Formula] = MappingProxyType(
    {
        # Smoothed number of multiplications (Paria et al., 2020).
        "flops": _Formula(
            lambda sums, texts: (sums / texts).square().sum(),
            lambda sums, texts: sums * (2 / texts**2),
        ),
        # The article's: it grows with the batch.
        "l1": _Formula(lambda sums, texts: sums.sum(), lambda sums, texts: sums.new_ones(())),
        "mean-l1": _Formula(
            lambda sums, texts: sums.sum() / texts,
            lambda sums, texts: sums.new_full((), 1 / texts),
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Regularizer:
    """A regularizer with its weight. ``value`` and the gradient include the weight."""

    name: RegularizerName
    """``flops``: the sum over the vocabulary of the squared mean weight. ``l1``: the sum of all weights. ``mean-l1``:
    that sum by text."""
    weight: float = 1.0
    threshold: int = 0
    """A vector with at most so many active entries counts as zeros (Shen et al., 2025, arXiv 2504.14839)."""

    def value(self, reps: Tensor, active: Tensor | None = None) -> Tensor:
        """A scalar, for vectors [N, V] without negative entries.

        If ``reps`` are only some columns of the vectors, ``active`` has the number of active entries in all of them,
        [N]. The value is then the part of these columns: those of all columns add up.
        """
        return self.weight * _FORMULAS[self.name].value(_sums(reps, self._counted(reps, active)), len(reps))

    def add_gradient_(self, target: Tensor, reps: Tensor, active: Tensor | None = None, *, scale: float = 1.0) -> None:
        """Add the gradient of :meth:`value`, times ``scale``, to ``target`` [N, V]. Memory: O(V)."""
        counted = self._counted(reps, active)
        gradient = scale * self.weight * _FORMULAS[self.name].gradient(_sums(reps, counted), len(reps))
        if counted is None:
            target += gradient
        else:
            target.addcmul_(counted.unsqueeze(1), gradient.expand(reps.shape[1]))

    def _counted(self, reps: Tensor, active: Tensor | None) -> Tensor | None:
        """1 for a vector that counts, 0 for one below the threshold, [N]. None: all count."""
        if not self.threshold:
            return None
        active = torch.count_nonzero(reps.detach(), dim=1) if active is None else active
        return (active > self.threshold).to(reps.dtype)


def _sums(reps: Tensor, counted: Tensor | None) -> Tensor:
    """Over the vectors that count, [V]."""
    sums: Tensor = torch.linalg.vector_norm(reps, 1, dim=0) if counted is None else counted @ reps
    return sums
