"""On a device too, the second pass of a cached step repeats the dropout of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from equality import FP64, Bounds, Gradients, assert_gradients_are_near, gradients_of, make_config, text_batches
from on_device import (
    CUT,
    FLOAT32_INSIDE,
    FP32,
    NEEDS_FP64,
    ON_ACCELERATOR,
    WITHOUT_CHECKPOINTING,
    distance,
    dropping_encoder,
    gradients_of_batch,
)
from tokenizers import Tokenizer

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import cut_into_mini_batches
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.rng import capture_rng, restored_rng
from splade_bench.training.losses import SpladeLoss

pytestmark = ON_ACCELERATOR

REPLAYED = {
    "cut": CUT,
    "checkpointing": replace(CUT, activation_checkpointing=True),
    "no attention dropout": replace(CUT, attention_dropout=False),
    "eager head": replace(CUT, head="eager"),
    "nothing recomputed": replace(CUT, selective_recomputation=False, in_place_gradients=False),
}


def uncached_gradients(encoder: SpladeEncoder, batch: TripleBatch) -> Gradients:
    """The graph of every mini-batch is kept, in the order and with the random numbers of a cached step's first pass."""
    torch.manual_seed(9)
    made = cut_into_mini_batches(batch.groups, max_tokens=10_000, max_texts=3)
    assert len(made) == 4
    order = torch.cat([mini_batch.rows for mini_batch in made]).argsort()
    reps = torch.cat([encoder(mini_batch.texts) for mini_batch in made])[order]
    SpladeLoss(make_config())(reps[: len(batch)], reps[len(batch) :]).total.backward()
    return gradients_of(encoder)


@pytest.mark.parametrize(
    ("dtype", "bounds"),
    [pytest.param(torch.float64, FP64, marks=NEEDS_FP64), (torch.float32, FP32)],
    ids=["fp64", "fp32"],
)
@pytest.mark.parametrize("memory", REPLAYED.values(), ids=REPLAYED)
def test_the_cached_gradient_is_that_of_one_forward_pass_with_the_same_dropout(
    tokenizer: Tokenizer,
    triples: Sequence[Triple],
    device: torch.device,
    memory: MemoryConfig,
    dtype: torch.dtype,
    bounds: Bounds,
    record_property: Any,
) -> None:
    encoder, reference = (dropping_encoder(tokenizer, memory, device, dtype) for _ in range(2))
    batch = next(text_batches(triples, encoder, make_config(batch_size=4))).to(device)

    ours = gradients_of_batch(encoder, batch, memory, seed=9)
    position = capture_rng(device)
    plain = uncached_gradients(reference, batch)

    record_property("distance", distance(ours, plain, bounds.floor))
    assert_gradients_are_near(ours, plain, bounds)
    after = capture_rng(device)
    assert torch.equal(position.cpu, after.cpu)
    if position.on_device is not None:  # replay has drawn nothing that the next step would miss
        assert after.on_device is not None and torch.equal(position.on_device, after.on_device)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@NEEDS_FP64
def test_the_cached_gradient_replays_the_dropout_of_every_architecture(
    architecture: str, tokenizer: Tokenizer, triples: Sequence[Triple], device: torch.device
) -> None:
    memory = replace(CUT, activation_checkpointing=architecture not in WITHOUT_CHECKPOINTING)
    encoder, reference = (dropping_encoder(tokenizer, memory, device, torch.float64, architecture) for _ in range(2))
    batch = next(text_batches(triples, encoder, make_config(batch_size=4))).to(device)

    bounds = replace(FP32, dtype=torch.float64) if architecture in FLOAT32_INSIDE else FP64
    ours, plain = gradients_of_batch(encoder, batch, memory, seed=9), uncached_gradients(reference, batch)

    assert_gradients_are_near(ours, plain, bounds)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("memory", REPLAYED.values(), ids=REPLAYED)
def test_the_second_pass_repeats_the_first_bitwise(
    tokenizer: Tokenizer, triples: Sequence[Triple], device: torch.device, memory: MemoryConfig, precision: Any
) -> None:
    encoder = dropping_encoder(tokenizer, memory, device, torch.float32)
    encoder.configure(memory, mixed_precision=precision)
    batch = next(text_batches(triples, encoder, make_config(batch_size=4))).to(device)
    torch.manual_seed(1)
    for mini_batch in cut_into_mini_batches(batch.groups, max_tokens=10_000, max_texts=3):
        rng = capture_rng(device)
        first = encoder.pool(mini_batch.texts).reps
        with restored_rng(rng):
            second = encoder(mini_batch.texts)
        other = encoder.pool(mini_batch.texts).reps

        assert torch.equal(first, second)
        assert not torch.equal(first, other)  # dropout is on
