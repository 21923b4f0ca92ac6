"""The SPLADE head: hidden states in, one sparse vector over the vocabulary out, without the logits between.

Two functions with one contract: :func:`splade_max_eager` is the definition, :func:`splade_max` gives the same values
and gradients in a fraction of the memory. Two facts make that possible. ``log1p(relu(.))`` is monotone, so the max over
the tokens may come first, one slice of the vocabulary at a time. Only the token that won an active entry gets a
gradient, so backward needs each winner's position, but no logits.

:func:`pool` and the ``pooled`` argument separate the two passes: a cached step pools all texts first, drops their
hidden states, and goes through backward later, when it has computed them again.

Shapes: B texts, L tokens, H hidden, V vocabulary, T vocabulary tile, N active entries with a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.device.planned import once_in_plan
from splade_bench.device.reads import nonzero
from splade_bench.model.gradients import existing_grad
from splade_bench.model.precision import product_dtype, wide_dtype
from splade_bench.model.row_sums import ROWS_AT_A_TIME, add_weighted_rows_, weighted_rows

# A tile of logits is 4 MiB. It stays in cache between the product that writes it and the maximum that reads it, and the
# product is large enough to run at full speed (measured in benchmarks/test_head.py).
TOKENS_PER_TILE = 1024
VOCAB_TILE = 1024
# From this share of active entries on, it is cheaper to find winners in the forward pass than in backward.
WINNERS_PAY_FROM = 0.08


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the head's backward needs beside its inputs."""

    reps: Tensor
    """Sparse vectors [B, V], float32 also under autocast."""
    winners: Tensor | None
    """Position of the token that won each entry, int32 [B, V]. None: backward finds it, for entries with a gradient."""


def splade_max_eager(hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor) -> Tensor:
    """SPLADE max pooling as the papers write it: [B, L, H] -> [B, V].

    ``max over unmasked tokens of log(1 + relu(hidden @ weight.T + bias))`` (Formal et al., SPLADE v2, 2021).

    Memory: several [B, L, V] tensors while running; one or more are kept for backward.
    """
    logits = F.linear(hidden, weight, bias)  # [B, L, V]
    activated = torch.log1p(torch.relu(logits)) * attention_mask.unsqueeze(-1).to(logits.dtype)
    reps = activated.max(dim=1).values  # [B, V]
    return reps.to(wide_dtype(reps.dtype))  # on the CPU, autocast leaves them in its own type


def splade_max(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attention_mask: Tensor,
    *,
    keep_winners: bool = False,
    in_place_gradients: bool = False,
    planned_active_share: float = 1.0,
    pooled: Pooled | None = None,
    vocab_tile: int = VOCAB_TILE,
) -> Tensor:
    """SPLADE max pooling without the logits: [B, L, H] -> [B, V]; equals :func:`splade_max_eager`.

    If tokens tie for an entry, one of them takes its gradient. A text without tokens gives zeros. Under autocast,
    products run in its type and sums in float32.

    Args:
        hidden: [B, L, H], in any type.
        weight: [V, H], tied to the embeddings or not.
        bias: [V] or None.
        attention_mask: [B, L], 1 for a token, 0 for padding: right, left or scattered.
        keep_winners: find winners in the forward pass, which is cheaper if many entries are active.
        in_place_gradients: backward adds the gradients of ``weight`` and ``bias`` to their ``.grad``, which it makes if
            it is None, and returns none for them; both must be leaves.
        planned_active_share: in a plan, the assumed share of entries that are active and have a gradient.
        pooled: the result of :func:`pool` for the same inputs, which is then not computed again.
        vocab_tile: vocabulary entries whose logits exist at a time.

    Memory: ``max(L, 1024) * vocab_tile`` elements and a copy of ``hidden`` while running; the result, and its winners
    if ``keep_winners``, are kept for backward. Backward adds O(N) indices and the gradient of ``weight``, or 1024 rows
    of it if in place; never [B, L, V].
    """
    if pooled is None:
        pooled = pool(hidden, weight, bias, attention_mask, keep_winners=keep_winners, vocab_tile=vocab_tile)
    return cast(
        Tensor,
        _SpladeMax.apply(hidden, weight, bias, attention_mask, pooled, in_place_gradients, planned_active_share),  # type: ignore[no-untyped-call]
    )


@torch.no_grad()
def pool(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attention_mask: Tensor,
    *,
    keep_winners: bool = False,
    vocab_tile: int = VOCAB_TILE,
) -> Pooled:
    """The forward pass of :func:`splade_max` alone, without a graph."""
    max_logits, winners = _search(hidden, weight, bias, attention_mask, keep_winners, vocab_tile)
    max_logits.masked_fill_(~attention_mask.bool().any(1, keepdim=True), 0.0)
    return Pooled(max_logits.relu_().log1p_(), winners)


class _SpladeMax(torch.autograd.Function):
    """Backward of the head. Its forward only passes on the result of :func:`pool`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        attention_mask: Tensor,
        pooled: Pooled,
        in_place_gradients: bool,
        planned_active_share: float,
    ) -> Tensor:
        reps = pooled.reps.view_as(pooled.reps)  # a new tensor, so that the caller's does not get this graph
        ctx.save_for_backward(hidden, weight, attention_mask, reps, pooled.winners)
        # The leaves themselves: backward may unpack another tensor with the same content.
        ctx.parameters = (weight, bias) if in_place_gradients else None
        ctx.compute_dtype = product_dtype(hidden)
        ctx.planned_active_share = planned_active_share
        return reps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_reps: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, attention_mask, reps, winners = ctx.saved_tensors
        # d log1p(z)/dz = 1 / (1 + z) = exp(-reps), and relu passes nothing where reps is 0.
        grad_logits = torch.where(reps > 0, grad_reps * torch.exp(-reps), 0.0)  # [B, V]
        text, entry, counts = nonzero(grad_logits, planned_share=ctx.planned_active_share)  # [N], sorted by text
        values = grad_logits[text, entry]
        if winners is None:
            position = _find_winners(hidden, weight, attention_mask, entry, counts, ctx.compute_dtype)
        else:
            position = winners[text, entry].long()
        token = text * hidden.shape[1] + position
        flat_hidden = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)  # [B * L, H]
        grad_hidden = None
        if ctx.needs_input_grad[0]:
            grad_hidden = weighted_rows(weight, entry, values, into=token, rows=len(flat_hidden))
            grad_hidden = grad_hidden.view(hidden.shape).to(hidden.dtype)
        grad_weight = grad_bias = None
        if ctx.parameters:
            weight, bias = ctx.parameters
            add_weighted_rows_(existing_grad(weight), flat_hidden, token, values, into=entry)
            if bias is not None:
                existing_grad(bias).add_(grad_logits.sum(0))
        else:
            _, needs_weight, needs_bias = ctx.needs_input_grad[:3]
            if needs_weight:
                grad_weight = weighted_rows(flat_hidden, token, values, into=entry, rows=len(weight))
            grad_bias = grad_logits.sum(0) if needs_bias else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _fill_masked(hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """``hidden`` with each masked token replaced by its text's first unmasked one, and each token's position [B, L].

    Copies of a token do not change a maximum, so tiles need no mask.
    """
    tokens = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])  # [B, L]
    mask = attention_mask.bool()
    first = mask.to(torch.uint8).argmax(1, keepdim=True)
    source = torch.where(mask, tokens, first)
    return hidden.gather(1, source.unsqueeze(-1).expand_as(hidden)), source


def _search(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor, keep_winners: bool, vocab_tile: int
) -> tuple[Tensor, Tensor | None]:
    """The maximum of ``hidden @ weight.T + bias`` over unmasked tokens, one tile at a time: [B, V], and its winners."""
    texts, length, _ = hidden.shape
    vocab_size = len(weight)
    compute_dtype = product_dtype(hidden)
    reps_dtype = wide_dtype(compute_dtype)
    # The bias is the same for all tokens, so it may be added after the max. But if a narrow logit is rounded first, and
    # the bias then takes most of it away, the rounding error is larger than the rest.
    bias_in_tile = bias is not None and compute_dtype != reps_dtype
    filled, source = _fill_masked(hidden.to(compute_dtype), attention_mask)
    max_logits = torch.empty(texts, vocab_size, dtype=reps_dtype, device=hidden.device)
    winners = torch.empty(texts, vocab_size, dtype=torch.int32, device=hidden.device) if keep_winners else None
    texts_per_tile = max(1, min(texts, TOKENS_PER_TILE // length))
    tile_buffer = filled.new_empty(texts_per_tile * length * min(vocab_tile, vocab_size))
    with torch.autocast(hidden.device.type, enabled=False):
        for start in once_in_plan(range(0, vocab_size, vocab_tile)):
            rows = weight[start : start + vocab_tile].to(compute_dtype)  # [T, H]
            entries = slice(start, start + len(rows))
            offset = bias[entries].to(compute_dtype) if bias is not None and bias_in_tile else None
            for text in once_in_plan(range(0, texts, texts_per_tile)):
                chosen = slice(text, text + texts_per_tile)
                if winners is None:
                    max_logits[chosen, entries] = _tile_max(filled[chosen], rows, offset, tile_buffer)
                else:
                    values, positions = _tile_max_with_positions(filled[chosen], rows, offset, tile_buffer)
                    max_logits[chosen, entries] = values.t()
                    winners[chosen, entries] = source[chosen].gather(1, positions.t()).to(torch.int32)
    if bias is not None and not bias_in_tile:
        max_logits += bias
    return max_logits, winners


def _tile_max(tokens: Tensor, rows: Tensor, offset: Tensor | None, tile_buffer: Tensor) -> Tensor:
    """Largest logit of each text, [texts, T]."""
    texts, length, hidden_size = tokens.shape
    logits = tile_buffer[: texts * length * len(rows)].view(texts * length, len(rows))
    _product(tokens.reshape(-1, hidden_size), rows.t(), offset, logits)
    return logits.view(texts, length, len(rows)).amax(1)


def _tile_max_with_positions(
    tokens: Tensor, rows: Tensor, offset: Tensor | None, tile_buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Largest logit of each text and its token, [T, texts] both.

    The tile is transposed: finding positions is twice as fast along the last dimension.
    """
    texts, length, hidden_size = tokens.shape
    logits = tile_buffer[: texts * length * len(rows)].view(len(rows), texts * length)
    _product(rows, tokens.reshape(-1, hidden_size).t(), None if offset is None else offset.unsqueeze(1), logits)
    values, positions = logits.view(len(rows), texts, length).max(2)
    return values, positions


def _product(left: Tensor, right: Tensor, offset: Tensor | None, result: Tensor) -> None:
    """``result = left @ right + offset``."""
    if offset is None:
        torch.mm(left, right, out=result)
    else:
        torch.addmm(offset, left, right, out=result)


def _find_winners(
    hidden: Tensor, weight: Tensor, attention_mask: Tensor, entry: Tensor, counts: list[int], compute_dtype: torch.dtype
) -> Tensor:
    """Position in its text of the token with the largest logit, for N entries, ``counts`` of each text: [N].

    If few entries have a gradient, this costs less than the forward pass's max with positions over all entries.
    """
    # At least float32, even if the maximum was narrower: rounded logits would tie more often.
    search_dtype = wide_dtype(compute_dtype)
    filled, source = _fill_masked(hidden.to(compute_dtype).to(search_dtype), attention_mask)
    winners = torch.empty_like(entry)
    start = 0
    with torch.autocast(hidden.device.type, enabled=False):
        for row, count in once_in_plan(enumerate(counts), key=lambda pair: pair[1]):
            for chunk in once_in_plan(entry[start : start + count].split(ROWS_AT_A_TIME)):
                position = (weight[chunk].to(compute_dtype).to(search_dtype) @ filled[row].t()).argmax(1)
                winners[start : start + len(chunk)] = source[row, position]
                start += len(chunk)
    return winners
