"""The numbers of an optimizer step, read from its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splade_bench.device.reads import read_numbers
from splade_bench.training.losses import LossTerms
from splade_bench.training.state import StepLoss


def read_step(
    terms: Sequence[tuple[LossTerms, float]], norm: Tensor, *, planned_active_dims: float
) -> tuple[StepLoss, float]:
    """The mean of each term, weighted by each batch's share of the queries, and the gradient's norm.

    The loop waits for the device here only, once per optimizer step. A plan assumes vectors of the same active dims as
    before, and a gradient that needs no clipping.
    """
    names = [*StepLoss.__dataclass_fields__]
    means = [torch.stack([getattr(batch, name) * share for batch, share in terms]).sum() for name in names]
    planned = [planned_active_dims if name.endswith("active_dims") else 0.0 for name in names]
    together = torch.stack([mean.to(means[0]) for mean in (*means, norm)])
    *values, norm_value = read_numbers(together, planned=[*planned, 0.0])
    return StepLoss(**dict(zip(names, values, strict=True))), norm_value
