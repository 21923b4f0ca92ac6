"""Gradients on a device equal those of the plain definition, in every memory mode and architecture."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from equality import FP64, assert_gradients_are_near, make_config, relative_error, trained_gradients
from on_device import (
    FLOAT32_INSIDE,
    FP32,
    MEMORIES,
    NEEDS_FP64,
    ON_ACCELERATOR,
    ON_CUDA,
    STANDARD,
    WITHOUT_CHECKPOINTING,
    distance,
    gradients_of_batch,
    on_cpu,
)
from tokenizers import Tokenizer

from splade_bench.batching.batches import TextBatch, TripleBatch, pad
from splade_bench.batching.sources import SyntheticBatches
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset

pytestmark = ON_ACCELERATOR


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize("accumulation", [1, 2])
@NEEDS_FP64
def test_fp64_gradients_equal_those_of_the_plain_definition_on_the_cpu(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    memory: MemoryConfig,
    accumulation: int,
    record_property: Any,
) -> None:
    config = make_config(gradient_accumulation_steps=accumulation, memory=memory)
    plain = trained_gradients(copy.deepcopy(encoder).cpu(), triples, replace(config, memory=STANDARD), torch.float64)

    ours = on_cpu(trained_gradients(encoder, triples, config, torch.float64))

    record_property("distance", distance(ours, plain, FP64.floor))
    assert_gradients_are_near(ours, plain, FP64)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_fp32_gradients_equal_those_of_the_plain_definition(
    encoder: SpladeEncoder, triples: Sequence[Triple], memory: MemoryConfig, record_property: Any
) -> None:
    config = make_config(memory=memory)
    plain = trained_gradients(encoder, triples, replace(config, memory=STANDARD), torch.float32)

    ours = trained_gradients(encoder, triples, config, torch.float32)

    record_property("distance", distance(ours, plain, FP32.floor))
    assert_gradients_are_near(ours, plain, FP32)


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_gradients_at_the_size_of_a_real_model(
    tokenizer: Tokenizer, device: torch.device, mode: str, record_property: Any
) -> None:
    """6 x 384, vocabulary 30,522, 24 texts of 4 to 128 tokens: the kernels that real shapes choose."""
    encoder = build_preset("mini", tokenizer, seed=0).to(device)
    source = SyntheticBatches(
        batch_size=8,
        max_length=128,
        vocab_size=30522,
        negatives_per_query=1,
        batches_per_epoch=1,
        seed=0,
        lengths="real",
    )
    batch = next(source.batches(0)).to(device)
    plain = gradients_of_batch(encoder, batch, STANDARD)

    ours = gradients_of_batch(encoder, batch, MEMORY_MODES[mode])

    error = relative_error(ours, {name: gradient.double() for name, gradient in plain.items()})
    record_property("relative_error", error)
    record_property("distance", distance(ours, plain, FP32.floor))
    assert error < 2e-5


def make_texts(lengths: tuple[int, ...], seed: int, pad_token_id: int) -> TextBatch:
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(5, 120, (length,), generator=generator).tolist() for length in lengths]
    return pad(sequences, pad_token_id=pad_token_id, width=14)


def make_batch(pad_token_id: int) -> TripleBatch:
    lengths = ((3, 5, 2, 7), (9, 4, 12, 6), (6, 12, 4, 9))
    queries, positives, negatives = (make_texts(group, seed, pad_token_id) for seed, group in enumerate(lengths))
    return TripleBatch(queries, (positives, negatives))


def memory_of(mode: str, architecture: str) -> MemoryConfig:
    memory = replace(MEMORY_MODES[mode], mini_batch_size=3)
    return replace(memory, activation_checkpointing=False) if architecture in WITHOUT_CHECKPOINTING else memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=NEEDS_FP64), torch.float32], ids=str)
def test_gradients_of_every_architecture_equal_those_of_the_standard_mode(
    architecture: str, dtype: torch.dtype, tokenizer: Tokenizer, device: torch.device, record_property: Any
) -> None:
    model = make_model(architecture, dropout=0.0)
    encoder = SpladeEncoder(model, wrap(tokenizer)).to(dtype).to(device)
    batch = make_batch(model.config.pad_token_id or 0).to(device)
    bounds = replace(FP32 if dtype == torch.float32 or architecture in FLOAT32_INSIDE else FP64, dtype=dtype)
    plain = gradients_of_batch(encoder, batch, STANDARD)

    for mode in ("memory-efficient", "minimal-memory"):
        ours = gradients_of_batch(encoder, batch, memory_of(mode, architecture))

        record_property(f"distance-{mode}", distance(ours, plain, bounds.floor))
        assert_gradients_are_near(ours, plain, bounds)


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param({"mixed_precision": "bf16"}, id="bf16"),
        pytest.param({"mixed_precision": "fp16"}, id="fp16"),
        pytest.param({"tf32": True}, id="tf32", marks=ON_CUDA),
    ],
)
@NEEDS_FP64
def test_the_gradients_error_in_low_precision_is_no_larger_than_that_of_the_standard_mode(
    tokenizer: Tokenizer,
    triples: Sequence[Triple],
    device: torch.device,
    precision: dict[str, Any],
    record_property: Any,
) -> None:
    errors = dict.fromkeys(MEMORIES, 0.0)
    for seed in range(6):
        encoder = build_preset("toy", tokenizer, seed=seed).to(device)
        config = make_config(memory=STANDARD, max_grad_norm=0.0, seed=seed)
        exact = trained_gradients(encoder, triples, config, torch.float64)
        for name, memory in MEMORIES.items():
            low = replace(config, memory=memory, **precision)
            errors[name] += relative_error(trained_gradients(encoder, triples, low, torch.float32), exact)

    record_property("errors", json.dumps(errors))
    assert {name: error for name, error in errors.items() if not 1e-5 < error <= 1.05 * errors["standard"]} == {}
