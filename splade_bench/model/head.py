"""The SPLADE head: hidden states in, one sparse vector over the vocabulary out, without the logits between.

Two functions with one contract: :func:`splade_max_eager` is the definition, :func:`splade_max` gives the same values
and gradients in a fraction of the memory. Two facts make that possible. The activation of a logit is monotone, so the
max over the tokens may come first, one slice of the vocabulary at a time. Only the token that won an active entry gets
a gradient, so backward needs each winner's position, but no logits.

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

from splade_bench.config import ActivationName
from splade_bench.device.planned import once_in_plan
from splade_bench.device.settings import settings_of
from splade_bench.model.activations import ACTIVATIONS
from splade_bench.model.gradients import existing_grad
from splade_bench.model.precision import product_dtype, wide_dtype
from splade_bench.model.triton_head import fused_max, gradients_by_segments, suits
from splade_bench.model.winner_gradients import fill_masked, gradients_by_entries, gradients_without_waiting

# Widths of tiles are multiples of this, so that rows of logits are aligned.
_WIDTH_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the head's backward needs beside its inputs."""

    reps: Tensor
    """Sparse vectors [B, V], float32 also under autocast."""
    winners: Tensor | None
    """Position of the token that won each entry, int32 [B, V]. None: backward finds it, for entries with a gradient."""


def splade_max_eager(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attention_mask: Tensor,
    *,
    activation: ActivationName = "log1p",
) -> Tensor:
    """SPLADE max pooling as the papers write it: [B, L, H] -> [B, V].

    ``max over unmasked tokens of log(1 + relu(hidden @ weight.T + bias))`` (Formal et al., SPLADE v2, 2021).

    Memory: several [B, L, V] tensors while running; one or more are kept for backward.
    """
    logits = F.linear(hidden, weight, bias)  # [B, L, V]
    weights = torch.log1p(torch.relu(logits))
    if activation == "double-log1p":
        weights = torch.log1p(weights)
    activated = weights * attention_mask.unsqueeze(-1).to(logits.dtype)
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
    vocab_tile: int | None = None,
    fused: bool | None = None,
    activation: ActivationName = "log1p",
) -> Tensor:
    """SPLADE max pooling without the logits: [B, L, H] -> [B, V]; equals :func:`splade_max_eager`.

    If tokens tie for an entry, one of them takes its gradient. A text without tokens gives zeros. Under autocast,
    products run in its type and sums in float32.

    Args:
        hidden: [B, L, H], in any type.
        weight: [V, H], tied to the embeddings or not.
        bias: [V] or None.
        attention_mask: [B, L], 1 for a token, 0 for padding: right, left or scattered.
        keep_winners: find winners in the forward pass, which is cheaper if many entries are active. For a backward pass
            an accelerator always does.
        in_place_gradients: backward adds the gradients of ``weight`` and ``bias`` to their ``.grad``, which it makes if
            it is None, and returns none for them; both must be leaves.
        planned_active_share: in a plan, the assumed share of entries that are active and have a gradient.
        pooled: the result of :func:`pool` for the same inputs, which is then not computed again.
        vocab_tile: vocabulary entries whose logits exist at a time. None: as many as suit the device.
        fused: compute in the kernels of :mod:`splade_bench.model.triton_head`, on CUDA. None: where they can run.
        activation: from the largest logit to the weight.

    Memory: a tile of logits (4 MiB on a CPU, 8 MiB on MPS, 128 MiB on CUDA, or one text's; none in the kernels) and a
    copy of ``hidden`` while running; the result, and its winners if they are kept, are kept for backward. Backward adds
    O(N) indices and the gradient of ``weight``, or 1024 rows of it if in place; never [B, L, V]. On an accelerator, it
    has the indices of 2 million entries at a time, or tiles of logits (:mod:`splade_bench.model.winner_gradients`).
    """
    fused = _is_fused(hidden) if fused is None else fused
    if pooled is None:
        keep_winners = keep_winners or (torch.is_grad_enabled() and keeps_winners(hidden.device))
        pooled = pool(
            *(hidden, weight, bias, attention_mask),
            keep_winners=keep_winners,
            vocab_tile=vocab_tile,
            fused=fused,
            activation=activation,
        )
    inputs = hidden, weight, bias, attention_mask, pooled, in_place_gradients, planned_active_share, fused, activation
    return cast(Tensor, _SpladeMax.apply(*inputs))  # type: ignore[no-untyped-call]


def keeps_winners(device: torch.device, active_share: float = 0.0) -> bool:
    """Whether the forward pass finds the winners, with so many active entries expected."""
    return active_share >= settings_of(device).winners_pay_from


@torch.no_grad()
def pool(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attention_mask: Tensor,
    *,
    keep_winners: bool = False,
    vocab_tile: int | None = None,
    fused: bool | None = None,
    activation: ActivationName = "log1p",
) -> Pooled:
    """The forward pass of :func:`splade_max` alone, without a graph."""
    inputs = hidden, weight, bias, attention_mask
    fused = _is_fused(hidden) if fused is None else fused
    max_logits, winners = (
        fused_max(*inputs, compute_dtype=product_dtype(hidden)) if fused else _search(*inputs, keep_winners, vocab_tile)
    )
    max_logits.masked_fill_(~attention_mask.bool().any(1, keepdim=True), 0.0)
    return Pooled(ACTIVATIONS[activation].weights(max_logits.relu_()), winners)


def _is_fused(hidden: Tensor) -> bool:
    """Whether the head of these hidden states is computed in Triton's kernels, unless the caller says."""
    return suits(hidden.device, product_dtype(hidden))


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
        fused: bool,
        activation: ActivationName,
    ) -> Tensor:
        reps = pooled.reps.view_as(pooled.reps)  # a new tensor, so that the caller's does not get this graph
        ctx.save_for_backward(hidden, weight, attention_mask, reps, pooled.winners)
        # The leaves themselves: backward may unpack another tensor with the same content.
        ctx.parameters = (weight, bias) if in_place_gradients else None
        ctx.compute_dtype = product_dtype(hidden)
        ctx.planned_active_share = planned_active_share
        ctx.fused = fused
        ctx.slope = ACTIVATIONS[activation].slope
        return reps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_reps: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, attention_mask, reps, winners = ctx.saved_tensors
        # relu passes nothing where reps is 0.
        grad_logits = torch.where(reps > 0, grad_reps * ctx.slope(reps), 0.0)  # [B, V]
        _, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        target = grad_bias = None
        if ctx.parameters:
            leaf, bias_leaf = ctx.parameters
            target = existing_grad(leaf)
            if bias_leaf is not None:
                existing_grad(bias_leaf).add_(grad_logits.sum(0))
        elif needs_bias:
            grad_bias = grad_logits.sum(0)
        if not ctx.fused and settings_of(hidden.device).head_backward == "entries":
            inputs = grad_logits, hidden, weight, attention_mask, winners, ctx.compute_dtype, ctx.planned_active_share
            grad_hidden, grad_weight = gradients_by_entries(*inputs, target=target, needs_weight=needs_weight)
        else:
            grad_weight = torch.zeros_like(weight) if needs_weight and target is None else None
            target = grad_weight if target is None else target
            sum_gradients = gradients_by_segments if ctx.fused else gradients_without_waiting
            grad_hidden = sum_gradients(grad_logits, hidden, weight, winners, target)
        grad_hidden = grad_hidden.view(hidden.shape).to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, *[None] * 6


def _search(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attention_mask: Tensor,
    keep_winners: bool,
    vocab_tile: int | None,
) -> tuple[Tensor, Tensor | None]:
    """The maximum of ``hidden @ weight.T + bias`` over unmasked tokens, one tile at a time: [B, V], and its winners."""
    texts, length, _ = hidden.shape
    vocab_size = len(weight)
    compute_dtype = product_dtype(hidden)
    reps_dtype = wide_dtype(compute_dtype)
    # The bias is the same for all tokens, so it may be added after the max. But if a narrow logit is rounded first, and
    # the bias then takes most of it away, the rounding error is larger than the rest.
    bias_in_tile = bias is not None and compute_dtype != reps_dtype
    filled, source = fill_masked(hidden.to(compute_dtype), attention_mask)
    max_logits = torch.empty(texts, vocab_size, dtype=reps_dtype, device=hidden.device)
    winners = torch.empty(texts, vocab_size, dtype=torch.int32, device=hidden.device) if keep_winners else None
    texts_per_tile, widest = _tile_shape(texts, length, vocab_size, filled)
    vocab_tile = vocab_tile or widest
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
                    del values, positions  # before those of the next tile are made
            del rows
    if bias is not None and not bias_in_tile:
        max_logits += bias
    return max_logits, winners


def _tile_shape(texts: int, length: int, vocab_size: int, inputs: Tensor) -> tuple[int, int]:
    """Texts and vocabulary entries of a tile that suits the device. The entries are cut into equal slices."""
    texts_per_tile, most = settings_of(inputs.device).tile_shape(texts, length, inputs.element_size())
    slices = -(-vocab_size // max(_WIDTH_MULTIPLE, most))
    return texts_per_tile, -(-vocab_size // slices // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def _tile_max(tokens: Tensor, rows: Tensor, offset: Tensor | None, tile_buffer: Tensor) -> Tensor:
    """Largest logit of each text, [texts, T]."""
    if settings_of(tokens.device).reduces_last:
        return _turned_tile(tokens, rows, offset, tile_buffer).amax(2).t()
    texts, length, hidden_size = tokens.shape
    logits = tile_buffer[: texts * length * len(rows)].view(texts * length, len(rows))
    _product(tokens.reshape(-1, hidden_size), rows.t(), offset, logits)
    return logits.view(texts, length, len(rows)).amax(1)


def _tile_max_with_positions(
    tokens: Tensor, rows: Tensor, offset: Tensor | None, tile_buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Largest logit of each text and its token, [T, texts] both.

    The tile is turned: finding positions is twice as fast along the last dimension.
    """
    values, positions = _turned_tile(tokens, rows, offset, tile_buffer).max(2)
    return values, positions


def _turned_tile(tokens: Tensor, rows: Tensor, offset: Tensor | None, tile_buffer: Tensor) -> Tensor:
    """Logits [T, texts, L]."""
    texts, length, hidden_size = tokens.shape
    logits = tile_buffer[: texts * length * len(rows)].view(len(rows), texts * length)
    _product(rows, tokens.reshape(-1, hidden_size).t(), None if offset is None else offset.unsqueeze(1), logits)
    return logits.view(len(rows), texts, length)


def _product(left: Tensor, right: Tensor, offset: Tensor | None, result: Tensor) -> None:
    """``result = left @ right + offset``."""
    if offset is None:
        torch.mm(left, right, out=result)
    else:
        torch.addmm(offset, left, right, out=result)
