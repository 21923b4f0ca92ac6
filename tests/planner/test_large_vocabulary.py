"""XLM-R's vocabulary of 250,002: plans are true in every mode, on each device's paths, and beyond 2^31 entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import make_model, wrap
from equality import make_config
from heads import make_inputs, relative_difference, run_head
from tokenizers import Tokenizer

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig
from splade_bench.device.settings import SETTINGS
from splade_bench.device.storages import LiveStorages
from splade_bench.memory_modes import MEMORY_MODES, memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.model.head import splade_max, splade_max_eager
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, set_active_share
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import MemoryPlan, plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training import Trainer
from splade_bench.training.gradcache import gradcache_step, largest_mini_batch, mini_batch_texts
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext

VOCAB_SIZE = 250_002
LENGTH = 12


def make_encoder(tokenizer: Tokenizer) -> SpladeEncoder:
    model = make_model("xlm-roberta", dropout=0.1, vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32)
    return SpladeEncoder(model, wrap(tokenizer))


def planned(
    tokenizer: Tokenizer, config: TrainConfig, *, device: str = "cpu", active_share: float = 0.01
) -> MemoryPlan:
    return plan(
        lambda: make_encoder(tokenizer),
        config,
        Lengths.full(config),
        device_model(device, threads=1),
        baseline_bytes=0,
        active_share=active_share,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("mode", sorted({*MEMORY_MODES} - {"article"}))  # standard until its fifth batch
def test_live_bytes_are_as_planned(
    mode: str, device: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both the run and the plan take the sizes and ways of the device; the plan is otherwise that of the CPU.
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS[device]})
    config = make_config(max_length=LENGTH, batch_size=2, memory=memory_mode(mode), max_steps=2)
    source = SyntheticBatches(
        batch_size=2,
        max_length=LENGTH,
        vocab_size=500,
        negatives_per_query=1,
        batches_per_epoch=2,
        seed=0,
        lengths="full",
        padding=config.memory.padding,
    )
    encoder = make_encoder(tokenizer)
    set_active_share(encoder, next(source.batches(0)).documents[0], TRAINED_ACTIVE_SHARE)
    live = LiveStorages(vocab_size=encoder.vocab_size)
    trainer = Trainer(encoder, source, config, observers=[live])
    live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
    with live:
        trainer.train()

    made = planned(tokenizer, config, active_share=trainer.state.active_share)

    assert made.live_peak_bytes == pytest.approx(live.peak().peak_bytes, rel=0.01)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_batch_of_more_than_two_to_the_31_entries_is_planned(device: str, tokenizer: Tokenizer) -> None:
    config = make_config(max_length=LENGTH, batch_size=3000, memory=memory_mode("memory-efficient"))
    entries = 3 * 3000 * VOCAB_SIZE
    assert entries > 2**31

    made = planned(tokenizer, config, device=device)

    # Vectors, their gradient, and the winners, at least.
    assert 12 * entries <= made.live_peak_bytes <= 24 * entries


def test_short_texts_of_a_large_vocabulary_do_not_fill_an_accelerator_with_their_vectors(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(tokenizer)
    config = make_config(max_length=4, batch_size=4096, memory=memory_mode("memory-efficient"))
    encoder.configure(config.memory)
    assert mini_batch_texts(encoder) is None, "on a CPU"

    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["cuda"]})
    texts, tokens = largest_mini_batch(encoder, config)

    assert texts == 2**31 // (16 * VOCAB_SIZE)
    assert tokens == 4 * texts
    source = SyntheticBatches(
        batch_size=9,
        max_length=4,
        vocab_size=500,
        negatives_per_query=1,
        batches_per_epoch=1,
        seed=0,
        lengths="full",
    )
    sizes: list[int] = []
    settings = replace(SETTINGS["cuda"], vector_bytes=10 * 16 * VOCAB_SIZE)
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": settings})
    encoder.body.register_forward_pre_hook(
        lambda body, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    gradcache_step(encoder, next(source.batches(0)), SpladeLoss(config), StepContext())
    assert max(sizes) <= 10
    assert sum(sizes) >= 27
    encoder.configure(replace(config.memory, mini_batch_size=7))
    assert mini_batch_texts(encoder) == 7, "as configured"


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_head_equals_its_definition(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(3, 5, 4, VOCAB_SIZE, padding="right", bias=True, dtype=torch.float64)
    expected = run_head(splade_max_eager, inputs)
    settings: dict[str, Any] = {"cpu": SETTINGS[device]}
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", settings)

    for ours, plain in zip(run_head(splade_max, inputs), expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9
