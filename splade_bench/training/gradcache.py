"""The cached step: a batch in mini-batches, with the memory of one and the gradient of the whole.

Gradient caching (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"): the
vectors of all texts are computed without a graph, the loss and its gradient with respect to the vectors on the whole
batch, and each mini-batch then goes through the model again, with a graph, to take that gradient to the weights. So
in-batch negatives and FLOPS see the whole batch. Two things are cheaper here:

- The head's result is kept, so the second pass runs the model's body alone; the head's backward needs no logits.
- The mini-batch that comes last in the first pass keeps its graph and comes first in the second: it is computed once.
  A batch that is one mini-batch is a direct step.

Random numbers of the first pass are replayed in the second, so dropout is the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import MiniBatch, cut_into_mini_batches
from splade_bench.device.devices import pad_to_multiple_of
from splade_bench.device.planned import memoized_in_plan, once_in_plan
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.head import Pooled
from splade_bench.model.rng import RngState, capture_rng, restored_rng
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.step import PhaseListener

# Without a size from the user, a mini-batch has as many tokens as keep about 48 MiB for backward: a layer keeps about
# 11 tensors [tokens, hidden size], 4 bytes an element.
_KEPT_BYTES = 48 * 2**20
_KEPT_BYTES_PER_BODY_ELEMENT = 11 * 4
# Fewer tokens would leave products too small to run at full speed.
_MIN_TOKENS = 320


@dataclass(frozen=True, slots=True)
class _CachedMiniBatch:
    """A mini-batch after the first pass, with what the second needs to be the same."""

    mini_batch: MiniBatch
    winners: Tensor | None
    rng: RngState


def gradcache_step(
    encoder: SpladeEncoder,
    batch: TripleBatch,
    loss: SpladeLoss,
    *,
    regularizer_scale: float,
    gradient_scale: float,
    on_phase: PhaseListener,
) -> LossTerms:
    """Same contract as :func:`splade_bench.training.step.direct_step`; sizes come from ``encoder.memory``.

    Memory: the activations of one mini-batch, the vectors of the whole batch with their gradient (8 bytes an entry, 12
    where the head keeps its winners), and those of one mini-batch again.
    """
    on_phase("forward")
    *earlier, last = cut_into_mini_batches(
        (batch.queries, *batch.documents),
        max_tokens=encoder.memory.mini_batch_tokens or default_mini_batch_tokens(encoder),
        max_texts=encoder.memory.mini_batch_size,
        pad_to_multiple_of=pad_to_multiple_of(encoder.memory, encoder.device),
    )
    texts = len(batch) * (1 + len(batch.documents))
    reps = torch.empty(texts, encoder.vocab_size, dtype=encoder.reps_dtype, device=encoder.device)  # [N, V]
    cached = _first_passes(encoder, earlier, into=reps)
    last_reps = encoder(last.texts)
    reps[last.rows] = last_reps.detach()
    reps.requires_grad_()
    on_phase("loss")
    terms = loss(reps[: len(batch)], reps[len(batch) :], regularizer_scale=regularizer_scale)
    on_phase("backward")
    (grad_reps,) = torch.autograd.grad(terms.total * gradient_scale, reps)
    last_reps.backward(grad_reps[last.rows])
    del last_reps
    for entry in once_in_plan(_taken_from(cached), key=lambda entry: entry.mini_batch.texts.input_ids.shape):
        _second_pass(encoder, entry, reps, grad_reps, on_phase)
    return terms.detach()


def default_mini_batch_tokens(encoder: SpladeEncoder) -> int:
    """Tokens of a mini-batch when nobody says: few for a large model, the whole batch for a small one."""
    return max(_MIN_TOKENS, _KEPT_BYTES // (_KEPT_BYTES_PER_BODY_ELEMENT * encoder.body_size))


def _first_passes(encoder: SpladeEncoder, mini_batches: Sequence[MiniBatch], *, into: Tensor) -> list[_CachedMiniBatch]:
    """Write the vectors to their rows of ``into``, and keep the rest."""

    def winners_of(mini_batch: MiniBatch) -> Tensor | None:
        pooled = encoder.pool(mini_batch.texts)
        into[mini_batch.rows] = pooled.reps
        return pooled.winners

    cached: list[_CachedMiniBatch] = []
    # In a plan texts of one shape have one result: what counts is that each takes its memory.
    first_pass = memoized_in_plan(winners_of, key=lambda mini_batch: mini_batch.texts.input_ids.shape, copy=_copy)
    for mini_batch in mini_batches:
        rng = capture_rng(encoder.device)
        cached.append(_CachedMiniBatch(mini_batch, first_pass(mini_batch), rng))
    return cached


def _copy(winners: Tensor | None) -> Tensor | None:
    return None if winners is None else winners.clone()


def _taken_from(cached: list[_CachedMiniBatch]) -> Iterator[_CachedMiniBatch]:
    """The largest first, each forgotten by the list when its turn comes."""
    while cached:
        yield cached.pop()


def _second_pass(
    encoder: SpladeEncoder, cached: _CachedMiniBatch, reps: Tensor, grad_reps: Tensor, on_phase: PhaseListener
) -> None:
    on_phase("forward")
    rows = cached.mini_batch.rows
    with restored_rng(cached.rng):
        again = encoder(cached.mini_batch.texts, pooled=Pooled(reps.detach()[rows], cached.winners))
    on_phase("backward")
    again.backward(grad_reps[rows])
