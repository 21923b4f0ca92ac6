"""Every exact technique against the plain definition: alone, left out of the full set, and in combinations.

Gradients are compared as the optimizer gets them from the trainer, so accumulation and clipping are part of it. The
model has no dropout: with dropout on, techniques are held by replay (``test_replay.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from equality import (
    FP32,
    FP64,
    Bounds,
    Gradients,
    assert_gradients_are_near,
    make_config,
    text_batches,
    trained_gradients,
)
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset

PlainGradients = Callable[[TrainConfig, torch.dtype], Gradients]

STANDARD = MEMORY_MODES["standard"]
# What each field that decides about gradients is tried with.
VALUES: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "head": ["eager", "streaming"],
        "padding": ["max_length", "longest"],
        "pad_to_multiple_of": [1, 5, 8],
        "gradient_caching": [False, True],
        "mini_batch_tokens": [None, 1, 20, 45],
        "mini_batch_size": [None, 1, 2, 3],
        "activation_memory": ["none", "6MiB", "all"],
        "activation_checkpointing": [False, True],
        "selective_recomputation": [False, True],
        "in_place_gradients": [False, True],
        "compact_dropout": [False, True],
        "streaming_attention": [False, True],
        "attention_dropout": [True, False],
        "garbage_collection_interval": [0, 1],
        "empty_cache_interval": [0, 1],
        "trim_heap": [False, True],
        "mmap_threshold_bytes": [None, 2**22],
    }
)
# These fields only mean something inside a mini-batch.
NEEDS_CACHING = {"mini_batch_tokens", "mini_batch_size", "activation_memory", "trim_heap"}
OPTIMIZER_FIELDS = {field.name for field in fields(MemoryConfig) if "optimizer" in field.name}
ACCUMULATED = make_config(gradient_accumulation_steps=2, max_grad_norm=0.0)
BOUNDS = pytest.mark.parametrize("bounds", [FP64, FP32], ids=["fp64", "fp32"])


def techniques_alone() -> dict[str, MemoryConfig]:
    """The standard mode with one other value each."""
    made = {}
    for name, values in VALUES.items():
        start = replace(STANDARD, gradient_caching=True, mini_batch_size=4) if name in NEEDS_CACHING else STANDARD
        for value in values:
            memory = replace(start, **{name: value})
            if memory != STANDARD:
                made[f"{name}={value}"] = memory
    return made


def full_set_without_one() -> dict[str, MemoryConfig]:
    """The memory-efficient mode, cut into mini-batches, with each of its techniques taken back in turn."""
    full = replace(MEMORY_MODES["memory-efficient"], mini_batch_tokens=40)
    return {
        f"no {name}": replace(full, **{name: getattr(STANDARD, name)})
        for name in VALUES
        if getattr(full, name) != getattr(STANDARD, name)
    }


def combinations() -> dict[str, MemoryConfig]:
    rng = random.Random(20260)
    made = {}
    for number in range(16):
        chosen = {name: rng.choice(values) for name, values in VALUES.items()}
        if not chosen["gradient_caching"]:
            chosen["activation_memory"] = "none"
        made[f"combination {number}"] = MemoryConfig(**chosen)
    return made


MEMORIES = techniques_alone() | full_set_without_one() | combinations() | dict(MEMORY_MODES)


def smallest_gap(encoder: SpladeEncoder, triples: Sequence[Triple], batches: int) -> float:
    """Of the two largest among a text's logits for one entry and 0, relative to the largest logit of all."""
    gaps, largest = [], 0.0
    source = text_batches(triples, encoder, make_config())
    for _, batch in zip(range(batches), source, strict=False):
        for texts in (batch.queries, *batch.documents):
            with torch.no_grad():
                hidden = encoder.body(texts.input_ids, texts.attention_mask).logits
                logits = F.linear(hidden, encoder.decoder.weight, encoder.decoder.bias)
            logits = logits.masked_fill(~texts.attention_mask.bool()[..., None], -torch.inf)
            first, second = F.pad(logits, (0, 0, 0, 1)).topk(2, dim=1).values.unbind(1)
            gaps.append(float((first - second).min()))
            largest = max(largest, float(first.max()))
    return min(gaps) / largest


def test_the_values_tried_cover_every_field_that_decides_about_gradients() -> None:
    assert VALUES.keys() | OPTIMIZER_FIELDS == {field.name for field in fields(MemoryConfig)}
    assert len(techniques_alone()) >= len(VALUES)
    assert len(full_set_without_one()) >= 8


def test_the_data_have_no_near_ties(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    """In fp32 a tie is broken by rounding, so that two exact ways may give the gradient to different tokens."""
    assert smallest_gap(encoder.double(), triples, batches=3) >= 2e-6


@pytest.fixture(scope="module")
def plain_gradients(tokenizer: Tokenizer, triples: Sequence[Triple]) -> PlainGradients:
    """The gradients of the standard mode, computed once for each configuration."""
    encoder = build_preset("toy", tokenizer, seed=0)

    @cache
    def of(config: TrainConfig, dtype: torch.dtype) -> Gradients:
        return trained_gradients(encoder, triples, replace(config, memory=STANDARD), dtype)

    return of


@BOUNDS
@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_accumulated_gradients_equal_those_of_the_plain_definition(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    plain_gradients: PlainGradients,
    memory: MemoryConfig,
    bounds: Bounds,
) -> None:
    ours = trained_gradients(encoder, triples, replace(ACCUMULATED, memory=memory), bounds.dtype)

    assert_gradients_are_near(ours, plain_gradients(ACCUMULATED, bounds.dtype), bounds)


@BOUNDS
@pytest.mark.parametrize("mode", sorted(set(MEMORY_MODES) - {"standard"}))
@pytest.mark.parametrize("loss", ["contrastive", "margin"])
@pytest.mark.parametrize("regularizer", ["flops", "l1"])
@pytest.mark.parametrize(("batches", "max_grad_norm"), [(1, 0.0), (3, 1e-3)], ids=["one batch", "three, clipped"])
def test_gradients_of_every_loss_equal_those_of_the_plain_definition(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    plain_gradients: PlainGradients,
    mode: str,
    loss: Any,
    regularizer: Any,
    batches: int,
    max_grad_norm: float,
    bounds: Bounds,
) -> None:
    config = make_config(
        loss=loss,
        margin=20.0,
        regularizer=regularizer,
        query_regularizer_weight=0.1,
        document_regularizer_weight=0.1,
        gradient_accumulation_steps=batches,
        max_grad_norm=max_grad_norm,
    )

    row = MEMORY_MODES[mode]
    # In mini-batches however small the model, and with what happens every few batches at each.
    memory = replace(row, mini_batch_size=4, garbage_collection_interval=min(1, row.garbage_collection_interval))
    plain = plain_gradients(config, bounds.dtype)
    ours = trained_gradients(encoder, triples, replace(config, memory=memory), bounds.dtype)

    if max_grad_norm:
        norm = torch.nn.utils.get_total_norm(plain.values()).item()
        assert norm == pytest.approx(max_grad_norm, rel=1e-2)  # it was above: clipping took place
    assert_gradients_are_near(ours, plain, bounds)
