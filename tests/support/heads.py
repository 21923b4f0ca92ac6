"""Inputs of a head, and its values and gradients for one upstream gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Head = Callable[..., Tensor]


def make_inputs(
    texts: int, length: int, hidden_size: int, vocab_size: int, *, padding: str, bias: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(texts * 1000 + length)
    hidden = torch.randn(texts, length, hidden_size, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, hidden_size, generator=generator, dtype=torch.float64)
    offset = torch.randn(vocab_size, generator=generator, dtype=torch.float64) - 1 if bias else None
    mask = {
        "none": torch.ones(texts, length, dtype=torch.int64),
        "right": (torch.arange(length) < torch.arange(1, texts + 1).clamp(max=length)[:, None]).long(),
        "left": (torch.arange(length) >= length - torch.arange(1, texts + 1).clamp(max=length)[:, None]).long(),
        "scattered": torch.randint(0, 2, (texts, length), generator=generator),
        "one text empty": torch.cat([torch.zeros(1, length), torch.ones(texts - 1, length)]).long(),
    }[padding]
    return hidden.to(dtype), weight.to(dtype), None if offset is None else offset.to(dtype), mask


def run_head(head: Head, inputs: tuple[Tensor, Tensor, Tensor | None, Tensor], **options: int) -> list[Tensor]:
    """Vectors, then the gradients of hidden, weight and bias for one upstream gradient."""
    hidden, weight, bias, mask = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    reps = head(*leaves[:2], leaves[2] if bias is not None else None, mask, **options)
    gradients = torch.autograd.grad(reps, leaves, upstream_of(reps))
    return [reps.detach(), *gradients]


def upstream_of(reps: Tensor) -> Tensor:
    """The gradient that comes to the vectors, the same for the same shape."""
    return torch.randn(reps.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(reps.dtype)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / scale)
