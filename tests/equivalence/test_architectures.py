"""The memory modes on every architecture: gradients of the loss against the standard mode's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from equality import FP64, Gradients, assert_gradients_are_near, gradients_of, make_config
from tokenizers import Tokenizer

from splade_bench.batching.batches import TextBatch, TripleBatch, pad
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder, lean
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext, direct_step

WITHOUT_CHECKPOINTING = {"mpnet", "albert"}
# Multiply attention's parts themselves, dropout between them: there is no one function to stream.
OWN_ATTENTION = {"mpnet", "deberta", "deberta-v2"}
# Drops nothing, but takes the paths of dropout.
NEGLIGIBLE = 1e-9
QUERY_LENGTHS, DOCUMENT_LENGTHS = (3, 5, 2, 7), (9, 4, 12, 6)


def make_texts(lengths: tuple[int, ...], seed: int, pad_token_id: int) -> TextBatch:
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(5, 120, (length,), generator=generator).tolist() for length in lengths]
    return pad(sequences, pad_token_id=pad_token_id, width=14)


def make_batch(pad_token_id: int) -> TripleBatch:
    queries, positives, negatives = (
        make_texts(lengths, seed, pad_token_id)
        for seed, lengths in enumerate((QUERY_LENGTHS, DOCUMENT_LENGTHS, DOCUMENT_LENGTHS[::-1]))
    )
    return TripleBatch(queries, (positives, negatives))


def step_gradients(architecture: str, tokenizer: Tokenizer, memory: MemoryConfig, *, dropout: float = 0.0) -> Gradients:
    model = make_model(architecture, dropout=dropout)
    # In training: transformers checkpoints no layer otherwise.
    encoder = SpladeEncoder(model, wrap(tokenizer)).double().train()
    encoder.configure(memory)
    step = gradcache_step if memory.gradient_caching else direct_step
    step(encoder, make_batch(model.config.pad_token_id or 0), SpladeLoss(make_config()), StepContext())
    return gradients_of(encoder)


def memory_of(mode: str, architecture: str) -> MemoryConfig:
    """The mode's row, in mini-batches whatever the model's size, and without what the architecture cannot do."""
    memory = replace(MEMORY_MODES[mode], mini_batch_size=3)
    if architecture in WITHOUT_CHECKPOINTING:
        memory = replace(memory, activation_checkpointing=False)
    return memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_both_memory_modes_equal_those_of_the_standard_mode(
    architecture: str, tokenizer: Tokenizer
) -> None:
    plain = step_gradients(architecture, tokenizer, MEMORY_MODES["standard"])

    for mode in ("memory-efficient", "minimal-memory"):
        ours = step_gradients(architecture, tokenizer, memory_of(mode, architecture))

        assert_gradients_are_near(ours, plain, FP64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_paths_with_dropout_make_the_gradient_of_those_without(
    architecture: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Counter[str]()

    def counted(name: str) -> None:
        original = getattr(lean, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            taken[name] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(lean, name, call)

    counted("compact_dropout")
    counted("streaming_attention")
    plain = step_gradients(architecture, tokenizer, MEMORY_MODES["standard"])
    assert not taken

    ours = step_gradients(architecture, tokenizer, memory_of("memory-efficient", architecture), dropout=NEGLIGIBLE)

    assert_gradients_are_near(ours, plain, FP64)
    assert taken["compact_dropout"], "no dropout on hidden states"
    assert taken["streaming_attention"] or architecture in OWN_ATTENTION


@pytest.mark.parametrize("architecture", sorted(WITHOUT_CHECKPOINTING))
def test_an_architecture_without_activation_checkpointing_is_refused_in_one_line(
    architecture: str, tokenizer: Tokenizer
) -> None:
    encoder = SpladeEncoder(make_model(architecture), wrap(tokenizer))

    with pytest.raises(ConfigError, match="--no-activation-checkpointing") as caught:
        encoder.configure(MEMORY_MODES["minimal-memory"])

    assert "\n" not in str(caught.value)
    assert not encoder.memory.activation_checkpointing
