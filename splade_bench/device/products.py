"""Products of vectors over the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from splade_bench.device.settings import settings_of


def scores(queries: Tensor, documents: Tensor) -> Tensor:
    """The scalar products of queries [B, V] and documents [D, V]: [B, D].

    They are summed over as many entries at a time as the device sums rightly.
    """
    longest = settings_of(queries.device).longest_sum
    if longest is None or queries.shape[1] <= longest:
        return queries @ documents.t()
    # split: its backward writes the gradient once, slices would add up one of full size for each.
    slices = zip(queries.split(longest, 1), documents.split(longest, 1), strict=True)
    return torch.stack([left @ right.t() for left, right in slices]).sum(0)
