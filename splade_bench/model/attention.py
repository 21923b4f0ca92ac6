"""Attention with dropout for devices whose fused kernels have none: the same values, a few heads at a time.

Without a fused kernel for attention with dropout (CPU, MPS), torch keeps the probabilities and their mask,
``[B, A, L, L]`` each, in every layer. Here they exist for a few heads at a time. Backward computes them again from the
same random numbers.

Shapes: B texts, A heads, L tokens, D head size, C heads at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from splade_bench.device.planned import once_in_plan
from splade_bench.model.dropout import keep_mask, keep_scale
from splade_bench.model.precision import wide_dtype
from splade_bench.model.rng import capture_rng, restored_rng

# Scores at a time: 2 MiB of float32, which stay in cache from one pass to the next.
SCORES_AT_A_TIME = 2**19


def streaming_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """``F.scaled_dot_product_attention`` with dropout: [B, A, L, D] -> [B, A, L, D].

    ``softmax(query @ key.T * scale + mask)``, elements dropped with probability ``dropout`` (rounded to a multiple of
    2^-16, see :func:`splade_bench.model.dropout.compact_dropout`), times ``value`` (Vaswani et al., 2017). ``mask`` is
    boolean (True: take part) or added, and broadcasts to [B, A, L, L]. Scores and probabilities are at least float32.

    Memory: 2^19 scores, or those of one head, while running; the inputs and the state of the random generator are kept
    for backward.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return cast(
        Tensor,
        _StreamingAttention.apply(query, key, value, mask, dropout, scale),  # type: ignore[no-untyped-call]
    )


class _StreamingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        ctx.rng = capture_rng(query.device)
        texts, heads, length, _ = query.shape
        # Tokens before heads in memory, in the order in which the next layer reads them.
        attended = query.new_empty(texts, length, heads, value.shape[-1]).transpose(1, 2)
        addend = _addend(mask, query)
        with torch.autocast(query.device.type, enabled=False):
            for part in parts(query, key):
                part_query, part_key, part_value = _wide_parts(part, query, key, value)
                probabilities = _probabilities(part_query, part_key, None if addend is None else addend[part], scale)
                keep = keep_mask(probabilities.shape, dropout, query.device)
                attended[part] = probabilities.mul_(keep).mul_(keep_scale(dropout)) @ part_value
        ctx.save_for_backward(query, key, value, mask)
        ctx.dropout, ctx.scale = dropout, scale
        return attended

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        addend = _addend(mask, query)
        with restored_rng(ctx.rng), torch.autocast(query.device.type, enabled=False):
            for part in parts(query, key):
                part_query, part_key, part_value, part_grad = _wide_parts(part, query, key, value, grad)
                part_addend = None if addend is None else addend[part]
                probabilities = _probabilities(part_query, part_key, part_addend, ctx.scale)
                keep = keep_mask(probabilities.shape, ctx.dropout, query.device)
                kept = (probabilities * keep).mul_(keep_scale(ctx.dropout))  # [B, C, L, L]
                grad_value[part] = kept.transpose(-1, -2) @ part_grad
                grad_scores = (part_grad @ part_value.transpose(-1, -2)).mul_(kept)
                # Softmax's backward. The sum equals grad . attended, but attended was rounded to its own type.
                grad_scores -= probabilities.mul_(grad_scores.sum(-1, keepdim=True))
                grad_query[part] = (grad_scores @ part_key).mul_(ctx.scale)
                grad_key[part] = (grad_scores.transpose(-1, -2) @ part_query).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None, None, None


def _wide_parts(part: tuple[slice, slice], *tensors: Tensor) -> list[Tensor]:
    """The part of each tensor, at least in float32, as torch's own attention sums."""
    return [tensor[part].to(wide_dtype(tensor.dtype)) for tensor in tensors]


def _addend(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """``mask`` as a summand of the scores [B, A, L, L].

    The lowest number replaces -inf, so that a query that may not attend to any token does not become NaN.
    """
    if mask is None:
        return None
    dtype = wide_dtype(query.dtype)
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        addend = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)
    else:
        addend = mask.to(dtype).clamp(min=lowest)
    return addend.expand(*query.shape[:2], *addend.shape[-2:])


def _probabilities(query: Tensor, key: Tensor, addend: Tensor | None, scale: float) -> Tensor:
    scores = (query @ key.transpose(-1, -2)).mul_(scale)
    if addend is not None:
        scores += addend
    return scores.softmax(-1)


def parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Texts and heads, a few heads of one text at a time; in a plan, one part of each size."""
    texts, heads, length, _ = query.shape
    most_heads = max(1, SCORES_AT_A_TIME // (length * key.shape[2]))
    texts_at_a_time, heads_at_a_time = max(1, most_heads // heads), min(most_heads, heads)
    all_parts = itertools.product(_slices(texts, texts_at_a_time), _slices(heads, heads_at_a_time))
    return once_in_plan(all_parts, key=lambda part: (part[0].stop - part[0].start, part[1].stop - part[1].start))


def _slices(size: int, at_a_time: int) -> list[slice]:
    return [slice(start, min(start + at_a_time, size)) for start in range(0, size, at_a_time)]
