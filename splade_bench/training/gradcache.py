"""The cached step: a batch in mini-batches, with the memory of one or more and the gradient of the whole.

Gradient caching (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"): the
vectors of all texts are computed without a graph. Then come the loss of the whole batch and its gradient with respect
to the vectors. Each mini-batch goes through the model again, with a graph, to take that gradient to the weights. So
in-batch negatives and FLOPS see the whole batch. Two things are cheaper here:

- The head's result is kept. The second pass runs only the model's body, and the head's backward needs no logits.
- The largest mini-batch keeps the graph of its first pass, and so do others for which there is memory
  (``--activation-memory``): they need no second pass. With all graphs kept, nothing is computed twice.

The second pass replays the random numbers of the first, so dropout is the same in both. Both passes go from the largest
mini-batch to the smallest, so the gradient of the same mini-batches is the same, bitwise, however many graphs are kept.
With all kept, a batch is cut into other ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splade_bench.batching.batches import TextBatch, TripleBatch
from splade_bench.batching.mini_batches import MiniBatch, cut_into_mini_batches, moved_to
from splade_bench.config import TrainConfig
from splade_bench.device.planned import memoized_in_plan, once_in_plan, planned_device
from splade_bench.device.settings import settings_of
from splade_bench.distributed.vocabulary import Columns
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.head import Pooled, keeps_winners
from splade_bench.model.precision import wide_dtype
from splade_bench.model.rng import RngState, capture_rng, restored_rng
from splade_bench.training.kept_graphs import ActivationMemory, SavedStorages
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.step import StepContext

# A layer keeps about 11 tensors [tokens, hidden size] of 4 bytes per element for backward.
_KEPT_BYTES_PER_BODY_ELEMENT = 11 * 4
# Of a vector: itself, its winners, its gradient, and that of its logits.
_BYTES_PER_ENTRY = 16


@dataclass(frozen=True, slots=True)
class _FirstPass:
    """What the first pass of a mini-batch leaves: vectors with their graph, or what a second pass needs."""

    reps: Tensor | None = None
    winners: Tensor | None = None
    kept: Sequence[Tensor] = ()
    """In a plan, tensors of the sizes that the graph of an equal mini-batch keeps."""
    kept_sizes_bytes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class CachedMiniBatch:
    """A mini-batch after its first pass."""

    mini_batch: MiniBatch
    keeps_graph: bool
    first_pass: _FirstPass
    rng: RngState
    """Before the first pass."""

    @property
    def key(self) -> tuple[torch.Size, bool]:
        """Equal for those that a plan need not run again."""
        return self.mini_batch.texts.input_ids.shape, self.keeps_graph


def mini_batch_limit(encoder: SpladeEncoder) -> int:
    """Tokens of a mini-batch, padding included: as configured, or by what the model keeps of a token and the device.

    By default it is few tokens for a large model, and the whole batch for a small one.
    """
    if encoder.memory.mini_batch_tokens:
        return encoder.memory.mini_batch_tokens
    tokens = _tokens_that_keep(settings_of(encoder.device).kept_bytes, encoder)
    if encoder.memory.activation_memory == "all":
        return max(tokens, settings_of(encoder.device).tokens_if_all_kept)
    return tokens


def mini_batch_texts(encoder: SpladeEncoder) -> int | None:
    """Texts of a mini-batch: as configured, or as many as have room for their vectors on the device. None: any."""
    vector_bytes = settings_of(encoder.device).vector_bytes
    if encoder.memory.mini_batch_size or vector_bytes is None:
        return encoder.memory.mini_batch_size
    return max(1, vector_bytes // (_BYTES_PER_ENTRY * encoder.vocab_size))


def mini_batch_limit_of(encoder: SpladeEncoder, longest: int) -> int:
    """:func:`mini_batch_limit` for texts of at most ``longest`` tokens: the limit of texts counts too."""
    limit, texts = mini_batch_limit(encoder), mini_batch_texts(encoder)
    return limit if texts is None else min(limit, texts * longest)


def sized_for(memory: MemoryConfig, encoder: SpladeEncoder, free_bytes: int) -> MemoryConfig:
    """``memory`` with mini-batches of a size that suits the free memory of the encoder's device.

    It is unchanged if it names a size, has no mini-batches, or if the device is a CPU.
    """
    kept_share = settings_of(encoder.device).kept_share
    if not (kept_share and memory.gradient_caching) or memory.mini_batch_tokens or memory.mini_batch_size:
        return memory
    return replace(memory, mini_batch_tokens=_tokens_that_keep(int(kept_share * free_bytes), encoder))


def _tokens_that_keep(kept_bytes: int, encoder: SpladeEncoder) -> int:
    """The tokens of a mini-batch whose activations take so much memory, within the device's bounds."""
    settings = settings_of(encoder.device)
    tokens = kept_bytes // (_KEPT_BYTES_PER_BODY_ELEMENT * max(1, encoder.body_size))
    tokens = tokens if settings.most_tokens is None else min(tokens, settings.most_tokens)
    return max(tokens, settings.least_tokens)


def largest_mini_batch(encoder: SpladeEncoder, config: TrainConfig) -> tuple[int, int]:
    """Texts and tokens of the largest mini-batch that a run can have."""
    texts, longest = config.batch_size * (2 + config.negatives_per_query), config.max_length
    tokens = min(max(mini_batch_limit_of(encoder, longest), longest), texts * longest)
    return -(-tokens // longest), tokens


def gradcache_step(encoder: SpladeEncoder, batch: TripleBatch, loss: SpladeLoss, context: StepContext) -> LossTerms:
    """The batch in mini-batches, with the same result as :func:`splade_bench.training.step.direct_step`.

    Memory: the activations of one mini-batch, or more up to the configured activation memory; the vectors of the whole
    batch with their gradient (8 bytes per entry, 12 where the head keeps its winners); the vectors of the mini-batches
    with graphs again.

    Raises:
        ConfigError: the activation memory is less than that of one mini-batch.
    """
    context.on_phase("forward")
    static = encoder.static_queries
    queries = batch.queries if static is None else batch.queries.to(encoder.device)
    if static is None:
        reps, cached = first_passes(encoder, batch.groups, context)
    else:
        reps, cached = first_passes(encoder, batch.documents, context, first_row=len(batch))
        with torch.no_grad():
            reps[: len(batch)] = static(queries)
    context.on_phase("loss")
    terms, grad_reps = loss.with_gradient(
        reps,
        len(batch),
        targets=batch.targets.to(encoder.device),
        regularizer_scale=context.regularizer_scale,
        gradient_scale=context.gradient_scale,
    )
    context.on_phase("backward")
    if static is not None:
        static(queries).backward(grad_reps[: len(batch)])
    take_to_weights(encoder, cached, reps, grad_reps, context)
    return terms


def first_passes(
    encoder: SpladeEncoder, groups: Sequence[TextBatch], context: StepContext, *, first_row: int = 0
) -> tuple[Tensor, list[CachedMiniBatch]]:
    """The vectors [N, V] of all texts of the groups, and what :func:`take_to_weights` needs beside them.

    The rows before ``first_row`` are left for the caller to fill.
    """
    memory = encoder.memory
    mini_batches = cut_into_mini_batches(
        groups,
        max_tokens=mini_batch_limit(encoder),
        max_texts=mini_batch_texts(encoder),
        pad_to_multiple_of=memory.pad_to_multiple_of,
        computed_twice=memory.activation_memory != "all",
        first_row=first_row,
    )
    mini_batches = moved_to(mini_batches, encoder.device)
    texts = first_row + sum(len(group.lengths) for group in groups)
    dtype = wide_dtype(encoder.decoder.weight.dtype)
    reps = torch.empty(texts, encoder.vocab_size, dtype=dtype, device=encoder.device)
    return reps, _first_passes(encoder, mini_batches, context, into=reps)


def take_to_weights(
    encoder: SpladeEncoder,
    cached: list[CachedMiniBatch],
    reps: Tensor,
    grad_reps: Tensor | Columns,
    context: StepContext,
) -> None:
    """Add the gradient of the vectors, [N, V], to the weights' ``.grad``. ``cached`` is empty afterwards."""
    for entry in once_in_plan(_take_all(cached), key=lambda entry: entry.key):
        context.check_stop()
        vectors = entry.first_pass.reps
        if vectors is None:
            vectors = _second_pass(encoder, entry, reps, context)
        vectors.backward(grad_reps[entry.mini_batch.rows])
        del vectors


def _first_passes(
    encoder: SpladeEncoder, mini_batches: Sequence[MiniBatch], context: StepContext, *, into: Tensor
) -> list[CachedMiniBatch]:
    """Write each mini-batch's vectors to its rows of ``into``; return the rest. The largest comes first."""
    head_keeps = 2 if keeps_winners(encoder.device, context.active_share) else 1  # tensors of the vectors' size
    graphs = ActivationMemory(encoder.memory, head_keeps * into.shape[1] * into.element_size())

    def run(choice: tuple[MiniBatch, bool]) -> _FirstPass:
        mini_batch, keeps_graph = choice
        if not keeps_graph:
            pooled = encoder.pool(mini_batch.texts, active_share=context.active_share)
            into[mini_batch.rows] = pooled.reps
            return _FirstPass(winners=pooled.winners)
        counts = graphs.limit_bytes > 0 and (mini_batch is mini_batches[0] or planned_device() is not None)
        saved = SavedStorages(encoder.parameters()) if counts else None
        with saved or nullcontext():
            vectors = encoder(mini_batch.texts, active_share=context.active_share)
        into[mini_batch.rows] = vectors.detach()
        if saved is None:
            return _FirstPass(reps=vectors)
        saved.add(vectors)
        return _FirstPass(reps=vectors, kept_sizes_bytes=saved.sizes_bytes)

    first_pass = memoized_in_plan(run, key=lambda choice: (choice[0].texts.input_ids.shape, choice[1]), copy=_stand_in)
    cached: list[CachedMiniBatch] = []
    for mini_batch in mini_batches:
        context.check_stop()
        rng, keeps_graph = capture_rng(encoder.device), graphs.keeps(mini_batch)
        result = first_pass((mini_batch, keeps_graph))
        if not cached:
            graphs.learn(mini_batch, result.kept_sizes_bytes)
            if context.largest_mini_batch:
                graphs.require(*context.largest_mini_batch)
        cached.append(CachedMiniBatch(mini_batch, keeps_graph, result, rng))
    return cached


def _stand_in(result: _FirstPass) -> _FirstPass:
    """In a plan, the memory of an equal mini-batch."""
    winners = None if result.winners is None else result.winners.clone()
    kept = [torch.empty(size_bytes, dtype=torch.uint8) for size_bytes in result.kept_sizes_bytes]
    return _FirstPass(winners=winners, kept=kept)


def _take_all(cached: list[CachedMiniBatch]) -> Iterator[CachedMiniBatch]:
    """The largest first. What the list held is freed one by one."""
    cached.reverse()
    while cached:
        yield cached.pop()


def _second_pass(encoder: SpladeEncoder, cached: CachedMiniBatch, reps: Tensor, context: StepContext) -> Tensor:
    """The vectors of a mini-batch again, with their graph."""
    context.on_phase("forward")
    texts, rows = cached.mini_batch.texts, cached.mini_batch.rows
    pooled = Pooled(reps[rows], cached.first_pass.winners)
    with restored_rng(cached.rng):
        again: Tensor = encoder(texts, pooled=pooled, active_share=context.active_share)
    context.on_phase("backward")
    return again
