"""Gradient clipping without temporaries of a gradient's size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Elements whose norm is taken at a time: torch's own works on a copy of each gradient on the CPU.
_ELEMENTS_AT_A_TIME = 2**20


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale gradients down in place so that their L2 norm, all taken together, is at most ``max_norm``; 0: never.

    Returns the norm before. The same numbers as ``torch.nn.utils.clip_grad_norm_``, and as there nothing is scaled
    up.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [part.norm() for gradient in gradients for part in gradient.flatten().split(_ELEMENTS_AT_A_TIME)]
    norm = torch.stack(norms).norm().item() if norms else 0.0
    if max_norm and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
    return norm
