"""Attention with dropout for devices whose fused kernels have none: the same values, a few heads at a time.

Where torch has no fused kernel for attention with dropout (CPU, MPS), it keeps the probabilities and their mask,
``[B, heads, L, L]`` each, in every layer. Here they exist for some heads at a time, in forward and, made again from the
same random numbers, in backward.

Shapes: B texts, A heads, L tokens, D head size, C heads at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from splade_bench.model.dropout import keep_mask, keep_scale
from splade_bench.model.rng import capture_rng, restored_rng

# Scores at a time: 2 MiB of float32, so that the passes over them find them in cache.
_SCORES_AT_A_TIME = 2**19


def streaming_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """``F.scaled_dot_product_attention`` with dropout: [B, A, L, D] -> [B, A, L, D].

    ``softmax(query @ key.T * scale + mask)``, elements dropped with probability ``dropout`` (rounded to a multiple of
    2^-16, see :func:`splade_bench.model.dropout.compact_dropout`), times ``value`` (Vaswani et al., 2017). ``mask`` is
    boolean (True: take part) or added, and broadcasts to [B, A, L, L].

    Memory: 2^19 scores, or those of one head, while running; inputs, result and the generator's state are kept for
    backward.
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
        # Tokens before heads in memory, as the layer that follows reads them.
        attended = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        for part in _parts(query, key):
            probabilities = _probabilities(query[part], key[part], _part_of(mask, part, query), scale)
            keep = keep_mask(probabilities.shape, dropout, query.device)
            attended[part] = probabilities.mul_(keep).mul_(keep_scale(dropout)) @ value[part]
        ctx.save_for_backward(query, key, value, mask, attended)
        ctx.dropout, ctx.scale = dropout, scale
        return attended

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, attended = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        with restored_rng(ctx.rng):
            for part in _parts(query, key):
                probabilities = _probabilities(query[part], key[part], _part_of(mask, part, query), ctx.scale)
                keep = keep_mask(probabilities.shape, ctx.dropout, query.device)
                kept = (probabilities * keep).mul_(keep_scale(ctx.dropout))  # [B, C, L, L]
                grad_value[part] = kept.transpose(-1, -2) @ grad[part]
                # Softmax's backward needs sum(d kept * kept) over each row, which is grad . attended.
                row_sums = (grad[part] * attended[part]).sum(-1, keepdim=True)
                grad_scores = (grad[part] @ value[part].transpose(-1, -2)).mul_(kept)
                grad_scores -= probabilities.mul_(row_sums)
                grad_query[part] = (grad_scores @ key[part]).mul_(ctx.scale)
                grad_key[part] = (grad_scores.transpose(-1, -2) @ query[part]).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None, None, None


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = (query @ key.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        # The lowest number and not -inf: a query with nothing to attend to must not become NaN.
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill_(~mask, lowest) if mask.dtype == torch.bool else scores.add_(mask)
    return scores.softmax(-1)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Texts and heads, a few heads of one text at a time."""
    texts, heads, length, _ = query.shape
    heads_at_a_time = max(1, _SCORES_AT_A_TIME // (length * key.shape[2]))
    if heads_at_a_time >= heads:
        texts_at_a_time = max(1, heads_at_a_time // heads)
        for text in range(0, texts, texts_at_a_time):
            yield slice(text, text + texts_at_a_time), slice(None)
        return
    for text in range(texts):
        for head in range(0, heads, heads_at_a_time):
            yield slice(text, text + 1), slice(head, head + heads_at_a_time)


def _part_of(mask: Tensor | None, part: tuple[slice, slice], query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    return mask.expand(query.shape[0], query.shape[1], *mask.shape[-2:])[part]
