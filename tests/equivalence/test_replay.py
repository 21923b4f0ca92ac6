"""Dropout on: the second pass of a cached step repeats the first bitwise, so its gradient is that of one forward pass.

The reference keeps the graph of every mini-batch, in the order and with the random numbers of the first pass: the same
function without caching.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from equality import FP64, Gradients, assert_gradients_are_near, gradients_of, make_config, text_batches
from tokenizers import Tokenizer

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import MiniBatch, cut_into_mini_batches
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.rng import capture_rng, restored_rng
from splade_bench.training import Trainer
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext

FULL = MemoryConfig(mini_batch_size=3)
WITHOUT_CHECKPOINTING = {"mpnet", "albert"}
MEMORIES = {
    "memory-efficient": FULL,
    "checkpointing": replace(FULL, activation_checkpointing=True),
    "torch's dropout": replace(FULL, compact_dropout=False, streaming_attention=False),
    "torch's dropout, checkpointing": replace(
        FULL, compact_dropout=False, streaming_attention=False, activation_checkpointing=True
    ),
    "compact dropout": replace(FULL, streaming_attention=False),
    "streaming attention": replace(FULL, compact_dropout=False),
    "no attention dropout": replace(FULL, attention_dropout=False),
    "eager head": replace(FULL, head="eager"),
    "nothing made again": replace(FULL, selective_recomputation=False, in_place_gradients=False),
}


def make_encoder(tokenizer: Tokenizer, memory: MemoryConfig, architecture: str = "bert") -> SpladeEncoder:
    model = make_model(architecture, dropout=0.2, vocab_size=512)
    encoder = SpladeEncoder(model, wrap(tokenizer)).double().train()
    encoder.configure(memory)
    return encoder


def make_batch(encoder: SpladeEncoder, triples: Sequence[Triple]) -> TripleBatch:
    return next(text_batches(triples, encoder, make_config(batch_size=4)))


def mini_batches(encoder: SpladeEncoder, batch: TripleBatch) -> list[MiniBatch]:
    made = cut_into_mini_batches(batch.groups, max_tokens=10_000, max_texts=encoder.memory.mini_batch_size)
    assert len(made) == 4
    return made


def cached_gradients(encoder: SpladeEncoder, batch: TripleBatch) -> Gradients:
    torch.manual_seed(9)
    gradcache_step(encoder, batch, SpladeLoss(make_config()), StepContext())
    return gradients_of(encoder)


def uncached_gradients(encoder: SpladeEncoder, batch: TripleBatch) -> Gradients:
    torch.manual_seed(9)
    made = mini_batches(encoder, batch)
    order = torch.cat([mini_batch.rows for mini_batch in made]).argsort()
    reps = torch.cat([encoder(mini_batch.texts) for mini_batch in made])[order]
    SpladeLoss(make_config())(reps[: len(batch)], reps[len(batch) :]).total.backward()
    return gradients_of(encoder)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_the_cached_gradient_is_that_of_one_forward_pass_with_the_same_dropout(
    tokenizer: Tokenizer, triples: Sequence[Triple], memory: MemoryConfig
) -> None:
    encoder, reference = (make_encoder(tokenizer, memory) for _ in range(2))
    batch = make_batch(encoder, triples)

    ours = cached_gradients(encoder, batch)
    position = torch.get_rng_state()
    plain = uncached_gradients(reference, batch)

    assert_gradients_are_near(ours, plain, FP64)
    assert torch.equal(position, torch.get_rng_state())  # replay has drawn nothing that the next step would miss


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cached_gradient_replays_the_dropout_of_every_architecture(
    architecture: str, tokenizer: Tokenizer, triples: Sequence[Triple]
) -> None:
    memory = replace(FULL, activation_checkpointing=architecture not in WITHOUT_CHECKPOINTING)
    encoder, reference = (make_encoder(tokenizer, memory, architecture) for _ in range(2))
    batch = make_batch(encoder, triples)

    assert_gradients_are_near(cached_gradients(encoder, batch), uncached_gradients(reference, batch), FP64)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_second_pass_repeats_the_first_bitwise(
    tokenizer: Tokenizer, triples: Sequence[Triple], memory: MemoryConfig, precision: str
) -> None:
    encoder = make_encoder(tokenizer, memory).float()
    encoder.configure(memory, mixed_precision=precision)  # type: ignore[arg-type]
    torch.manual_seed(1)
    for mini_batch in mini_batches(encoder, make_batch(encoder, triples)):
        rng = capture_rng(encoder.device)
        first = encoder.pool(mini_batch.texts).reps
        with restored_rng(rng):
            second = encoder(mini_batch.texts)  # the head computed too, where a step would take the first's result
        other = encoder.pool(mini_batch.texts).reps

        assert second.requires_grad
        assert torch.equal(first, second)
        assert not torch.equal(first, other)  # dropout is on


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_two_trainings_with_the_same_seed_are_equal_bitwise(
    tokenizer: Tokenizer, triples: Sequence[Triple], memory: MemoryConfig
) -> None:
    start = make_encoder(tokenizer, memory).float()
    runs = []
    for seed in (5, 5, 6):
        encoder = copy.deepcopy(start)
        losses = Trainer(encoder, triples, make_config(memory=memory, max_steps=3, seed=seed)).train().losses
        runs.append((losses, torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])))

    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]
