"""The cached step: a batch in mini-batches, with the memory of one and the gradient of the whole.

Gradient caching (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"): the
vectors of all texts are computed without a graph. Then come the loss of the whole batch and its gradient with respect
to the vectors. Each mini-batch goes through the model again, with a graph, to take that gradient to the weights. So
in-batch negatives and FLOPS see the whole batch. Two things are cheaper here:

- The head's result is kept. The second pass runs only the model's body, and the head's backward needs no logits.
- The last mini-batch of the first pass keeps its graph and comes first in the second: it is computed once. A batch
  that is one mini-batch is a direct step.

The second pass replays the random numbers of the first, so dropout is the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import MiniBatch, cut_into_mini_batches
from splade_bench.device.planned import memoized_in_plan, once_in_plan
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.head import Pooled
from splade_bench.model.precision import wide_dtype
from splade_bench.model.rng import RngState, capture_rng, restored_rng
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.step import StepContext

# The default mini-batch has as many tokens as keep about 48 MiB for backward: few for a large model, the whole batch
# for a small one. A layer keeps about 11 tensors [tokens, hidden size] of 4 bytes per element.
_KEPT_BYTES = 48 * 2**20
_KEPT_BYTES_PER_BODY_ELEMENT = 11 * 4
# With fewer tokens, products would be too small to run at full speed.
_MIN_TOKENS = 320


@dataclass(frozen=True, slots=True)
class _CachedMiniBatch:
    """A mini-batch after the first pass, with what the second needs to repeat it."""

    mini_batch: MiniBatch
    winners: Tensor | None
    rng: RngState


def mini_batch_limit(encoder: SpladeEncoder) -> int:
    """Tokens of a mini-batch, padding included: as configured, or chosen by the size of the model."""
    kept_bytes_per_token = _KEPT_BYTES_PER_BODY_ELEMENT * max(1, encoder.body_size)
    return encoder.memory.mini_batch_tokens or max(_MIN_TOKENS, _KEPT_BYTES // kept_bytes_per_token)


def gradcache_step(encoder: SpladeEncoder, batch: TripleBatch, loss: SpladeLoss, context: StepContext) -> LossTerms:
    """The batch in mini-batches, with the same result as :func:`splade_bench.training.step.direct_step`.

    Memory: the activations of one mini-batch; the vectors of the whole batch with their gradient (8 bytes per entry, 12
    where the head keeps its winners); the vectors of one mini-batch again.
    """
    context.on_phase("forward")
    *earlier, last = cut_into_mini_batches(
        batch.groups,
        max_tokens=mini_batch_limit(encoder),
        max_texts=encoder.memory.mini_batch_size,
        pad_to_multiple_of=encoder.memory.pad_to_multiple_of,
    )
    texts = sum(map(len, batch.lengths))
    dtype = wide_dtype(encoder.decoder.weight.dtype)
    reps = torch.empty(texts, encoder.vocab_size, dtype=dtype, device=encoder.device)  # [N, V]
    cached = _first_passes(encoder, earlier, context, into=reps)
    context.check_stop()
    last_reps = encoder(last.texts, active_share=context.active_share)
    reps[last.rows] = last_reps.detach()
    reps.requires_grad_()
    context.on_phase("loss")
    terms = loss(reps[: len(batch)], reps[len(batch) :], regularizer_scale=context.regularizer_scale)
    context.on_phase("backward")
    (grad_reps,) = torch.autograd.grad(terms.total * context.gradient_scale, reps)
    last_reps.backward(grad_reps[last.rows])
    del last_reps
    for entry in once_in_plan(_pop_all(cached), key=lambda entry: entry.mini_batch.texts.input_ids.shape):
        context.check_stop()
        _second_pass(encoder, entry, reps, grad_reps, context)
    return terms.detach()


def _first_passes(
    encoder: SpladeEncoder, mini_batches: Sequence[MiniBatch], context: StepContext, *, into: Tensor
) -> list[_CachedMiniBatch]:
    """Write each mini-batch's vectors to its rows of ``into``; return the rest."""

    def pool(mini_batch: MiniBatch) -> Tensor | None:
        pooled = encoder.pool(mini_batch.texts, active_share=context.active_share)
        into[mini_batch.rows] = pooled.reps
        return pooled.winners

    cached = []
    first_pass = memoized_in_plan(
        pool,
        key=lambda mini_batch: mini_batch.texts.input_ids.shape,
        copy=lambda winners: None if winners is None else winners.clone(),
    )
    for mini_batch in mini_batches:
        context.check_stop()
        rng = capture_rng(encoder.device)
        cached.append(_CachedMiniBatch(mini_batch, first_pass(mini_batch), rng))
    return cached


def _pop_all(cached: list[_CachedMiniBatch]) -> Iterator[_CachedMiniBatch]:
    """The last first. What the list held is freed one by one."""
    while cached:
        yield cached.pop()


def _second_pass(
    encoder: SpladeEncoder, cached: _CachedMiniBatch, reps: Tensor, grad_reps: Tensor, context: StepContext
) -> None:
    context.on_phase("forward")
    texts, rows = cached.mini_batch.texts, cached.mini_batch.rows
    with restored_rng(cached.rng):
        again = encoder(texts, pooled=Pooled(reps.detach()[rows], cached.winners), active_share=context.active_share)
    context.on_phase("backward")
    again.backward(grad_reps[rows])
