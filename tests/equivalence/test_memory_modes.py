"""Every memory mode against the standard one: gradients, and the weights after one and ten optimizer steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from splade_bench.config import MEMORY_MODES, TrainConfig
from splade_bench.data.records import Triple
from splade_bench.losses import SpladeLoss
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.step import direct_step
from splade_bench.training.trainer import text_batches

OTHER_MODES = sorted(set(MEMORY_MODES) - {"standard"})
# Relative to a tensor's own largest gradient, or to this share of the model's where that is smaller: an attention
# key's bias has a true gradient of zero.
FP64 = {"tolerance": 1e-9, "floor": 1e-6}
FP32 = {"tolerance": 1e-5, "floor": 1e-3}


def make_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"batch_size": 6, "max_length": 16, "learning_rate": 1e-3} | changes)


def gradients_of(
    encoder: SpladeEncoder, triples: Sequence[Triple], config: TrainConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(encoder).to(dtype)
    model.configure(config.memory)
    step = gradcache_step if config.memory.gradient_caching else direct_step
    batch = next(text_batches(triples, model, config).batches(0))
    step(
        model,
        batch,
        SpladeLoss(config),
        regularizer_scale=1.0,
        gradient_scale=1.0,
        on_phase=lambda phase: None,
    )
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("mode", OTHER_MODES)
@pytest.mark.parametrize("loss", ["contrastive", "margin"])
@pytest.mark.parametrize("regularizer", ["flops", "l1"])
@pytest.mark.parametrize(("dtype", "bounds"), [(torch.float64, FP64), (torch.float32, FP32)], ids=["fp64", "fp32"])
def test_gradients_equal_those_of_the_plain_definition(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    mode: str,
    loss: Any,
    regularizer: Any,
    dtype: torch.dtype,
    bounds: dict[str, float],
) -> None:
    config = make_config(loss=loss, margin=20.0, regularizer=regularizer, memory=MEMORY_MODES["standard"])

    plain = gradients_of(encoder, triples, config, dtype)
    ours = gradients_of(encoder, triples, replace(config, memory=MEMORY_MODES[mode]), dtype)

    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    assert ours.keys() == plain.keys()
    assert largest > 0
    for name, gradient in plain.items():
        scale = max(float(gradient.abs().max()), bounds["floor"] * largest)
        assert float((ours[name] - gradient).abs().max()) <= bounds["tolerance"] * scale, name


@pytest.mark.parametrize("mode", OTHER_MODES)
@pytest.mark.parametrize("max_steps", [1, 10])
@pytest.mark.parametrize("gradient_accumulation_steps", [1, 3])
def test_weights_after_training_equal_those_of_the_standard_mode(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    mode: str,
    max_steps: int,
    gradient_accumulation_steps: int,
) -> None:
    config = make_config(max_steps=max_steps, gradient_accumulation_steps=gradient_accumulation_steps)
    trained = {}
    for name in ("standard", mode):
        model = copy.deepcopy(encoder).double()
        Trainer(model, triples, replace(config, memory=MEMORY_MODES[name])).train()
        trained[name] = dict(model.named_parameters())

    for name, parameter in trained["standard"].items():
        difference = float((trained[mode][name] - parameter).detach().abs().max())
        assert difference <= 1e-6 * config.learning_rate, name
