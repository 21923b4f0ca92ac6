"""Gradient clipping without temporaries of a gradient's size, in one pass with the division by the loss scale.

The same numbers as ``torch.nn.utils.clip_grad_norm_``, but in two parts: between them the trainer reads the norm and
the loss terms together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Elements per norm: on the CPU, torch computes a norm on a copy.
_ELEMENTS_AT_A_TIME = 2**20


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients together, a scalar; 0 without gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [part.norm() for gradient in gradients for part in gradient.flatten().split(_ELEMENTS_AT_A_TIME)]
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], *, norm: float, max_norm: float, loss_scale: float = 1.0) -> None:
    """Divide gradients by ``loss_scale``, so that their L2 norm is ``norm``, and clip them to ``max_norm``, in place.

    ``max_norm`` 0: do not clip. Clipping never scales up.
    """
    factor = 1 / loss_scale
    if max_norm and norm > max_norm:
        factor *= max_norm / (norm + 1e-6)
    if factor != 1.0:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, factor)
