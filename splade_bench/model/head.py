"""The SPLADE head: hidden states in, one sparse vector over the vocabulary out, without the logits between.

Two functions with one contract: :func:`splade_max_eager` is the definition, :func:`splade_max` the same values and
gradients in a fraction of the memory. Two facts make that possible: ``log1p(relu(.))`` is monotone, so the max over
the tokens may be taken first, on a slice of the vocabulary at a time; and only the token that won an active entry
gets a gradient, so the backward pass needs no logits either, only each winner's position.

Shapes: B texts, L tokens, H hidden, V vocabulary, T vocabulary tile, N active entries with a gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

# A tile of 512 tokens x 512 vocabulary entries is 1 MiB: it stays in the second-level cache between the product that
# writes it and the maximum that reads it (AVX2 cores, torch 2.13; 256 and 1024 were slower).
TOKENS_PER_TILE = 512
VOCAB_TILE = 512
# Rows of the weight gathered at a time to find winners: bounds the copy at 4096 * H elements.
GATHERED_ROWS = 4096


def splade_max_eager(hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor) -> Tensor:
    """SPLADE max pooling as the papers write it: [B, L, H] -> [B, V].

    ``max over unmasked tokens of log(1 + relu(hidden @ weight.T + bias))`` (Formal et al., SPLADE v2, 2021).

    Memory: several [B, L, V] tensors while running, one or more of them kept for backward.
    """
    logits = F.linear(hidden, weight, bias)  # [B, L, V]
    activated = torch.log1p(torch.relu(logits)) * attention_mask.unsqueeze(-1).to(logits.dtype)
    return activated.max(dim=1).values  # [B, V]


def splade_max(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor, *, vocab_tile: int = VOCAB_TILE
) -> Tensor:
    """SPLADE max pooling without the logits: [B, L, H] -> [B, V]; equals :func:`splade_max_eager`.

    One of the tokens that tie for an entry takes its gradient; a text without a token gives zeros.

    Memory: ``max(L, 512) * vocab_tile`` elements and a copy of ``hidden`` while running; only the result is kept for
    backward. Backward adds O(N) indices and the gradient of ``weight``; never [B, L, V].
    """
    return cast(Tensor, _SpladeMax.apply(hidden, weight, bias, attention_mask, vocab_tile))  # type: ignore[no-untyped-call]


class _SpladeMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor, vocab_tile: int
    ) -> Tensor:
        max_logits = _max_logits(hidden, weight, attention_mask, vocab_tile)
        if bias is not None:
            max_logits += bias  # constant along the tokens, so it may follow the max
        max_logits.masked_fill_(~attention_mask.bool().any(1, keepdim=True), 0.0)
        reps = max_logits.relu_().log1p_()
        ctx.save_for_backward(hidden, weight, attention_mask, reps)
        ctx.has_bias = bias is not None
        return reps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_reps: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        hidden, weight, attention_mask, reps = ctx.saved_tensors
        # d log1p(z)/dz = 1 / (1 + z) = exp(-reps), and relu passes nothing where reps is 0.
        grad_logits = torch.where(reps > 0, grad_reps * torch.exp(-reps), 0.0)  # [B, V]
        text, entry = grad_logits.nonzero(as_tuple=True)  # [N], sorted by text
        values = grad_logits[text, entry]
        token = text * hidden.shape[1] + _winners(hidden, weight, attention_mask, text, entry)
        flat_hidden = hidden.reshape(-1, hidden.shape[-1])  # [B * L, H]
        grad_hidden = _weighted_rows(weight, entry, values, into=token, rows=len(flat_hidden))
        grad_weight = _weighted_rows(flat_hidden, token, values, into=entry, rows=len(weight))
        return grad_hidden.view_as(hidden), grad_weight, grad_logits.sum(0) if ctx.has_bias else None, None, None


def _fill_masked(hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """``hidden`` with each masked token replaced by its text's first unmasked one, and which token stands where.

    A copy of a token changes no maximum, so no tile needs a mask.
    """
    tokens = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])  # [B, L]
    mask = attention_mask.bool()
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    source = torch.where(mask, tokens, first)
    return hidden.gather(1, source.unsqueeze(-1).expand_as(hidden)), source


def _max_logits(hidden: Tensor, weight: Tensor, attention_mask: Tensor, vocab_tile: int) -> Tensor:
    """``(hidden @ weight.T)`` maximised over the unmasked tokens: [B, V], a tile of it at a time."""
    texts, length, hidden_size = hidden.shape
    vocab_size = len(weight)
    filled, _ = _fill_masked(hidden, attention_mask)
    result = hidden.new_empty(texts, vocab_size)
    texts_per_tile = max(1, min(texts, TOKENS_PER_TILE // length))
    tile_buffer = hidden.new_empty(texts_per_tile * length * min(vocab_tile, vocab_size))
    for text in range(0, texts, texts_per_tile):
        tokens = filled[text : text + texts_per_tile].reshape(-1, hidden_size)  # [texts * L, H]
        for start in range(0, vocab_size, vocab_tile):
            rows = weight[start : start + vocab_tile]  # [T, H]
            logits = tile_buffer[: len(tokens) * len(rows)].view(len(tokens), len(rows))
            torch.mm(tokens, rows.t(), out=logits)
            result[text : text + texts_per_tile, start : start + vocab_tile] = logits.view(-1, length, len(rows)).amax(
                1
            )
    return result


def _winners(hidden: Tensor, weight: Tensor, attention_mask: Tensor, text: Tensor, entry: Tensor) -> Tensor:
    """Position in its text of the token with the largest logit, for N pairs (text, vocabulary entry): [N].

    Finding them here, for the entries that have a gradient, costs less than keeping them in the forward pass: a max
    with positions is about twice as slow as one without.
    """
    filled, source = _fill_masked(hidden, attention_mask)
    winners = torch.empty_like(entry)
    start = 0
    for row, count in enumerate(torch.bincount(text, minlength=len(hidden)).tolist()):
        for chunk in entry[start : start + count].split(GATHERED_ROWS):
            position = (weight[chunk] @ filled[row].t()).argmax(1)
            winners[start : start + len(chunk)] = source[row, position]
            start += len(chunk)
    return winners


def _weighted_rows(table: Tensor, index: Tensor, values: Tensor, *, into: Tensor, rows: int) -> Tensor:
    """``result[into[n]] += values[n] * table[index[n]]`` for N entries: [rows, H], without an [N, H] temporary."""
    # embedding_bag takes a weighted sum on these devices only; there it is up to nine times as fast.
    sum_rows = _sum_rows_by_bag if table.device.type in ("cpu", "cuda") else _sum_rows_by_index_add
    return sum_rows(table, index, values, into=into, rows=rows)


def _sum_rows_by_bag(table: Tensor, index: Tensor, values: Tensor, *, into: Tensor, rows: int) -> Tensor:
    order = torch.argsort(into, stable=True)
    counts = torch.bincount(into, minlength=rows)
    offsets = counts.cumsum(0) - counts
    return F.embedding_bag(index[order], table, offsets, mode="sum", per_sample_weights=values[order])


def _sum_rows_by_index_add(table: Tensor, index: Tensor, values: Tensor, *, into: Tensor, rows: int) -> Tensor:
    result = table.new_zeros(rows, table.shape[1])
    for entries in torch.arange(len(index), device=table.device).split(4 * GATHERED_ROWS):
        result.index_add_(0, into[entries], table[index[entries]] * values[entries, None])
    return result
