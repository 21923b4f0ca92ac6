"""Gradient clipping without temporaries of a gradient's size.

The same numbers as ``torch.nn.utils.clip_grad_norm_``, in two parts: between them the trainer reads the norm, together
with everything else that it wants to know of an optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Elements whose norm is taken at a time: torch's own works on a copy of each gradient on the CPU.
_ELEMENTS_AT_A_TIME = 2**20


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients taken together, a scalar; 0 where there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [part.norm() for gradient in gradients for part in gradient.flatten().split(_ELEMENTS_AT_A_TIME)]
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], *, norm: float, max_norm: float) -> None:
    """Scale gradients of L2 norm ``norm`` down in place to ``max_norm``; 0: never. Nothing is scaled up."""
    if max_norm and norm > max_norm:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
