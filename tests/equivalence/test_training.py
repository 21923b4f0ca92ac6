"""Weights after whole trainings: every memory mode, and each technique of the full set alone, against the standard."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from equality import make_config
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training import Trainer

STANDARD = MEMORY_MODES["standard"]
OTHER_MODES = {name: memory for name, memory in MEMORY_MODES.items() if name != "standard"}
MEMORIES = OTHER_MODES | {
    "head": replace(STANDARD, head="streaming"),
    "gradient_caching": replace(STANDARD, gradient_caching=True, mini_batch_size=5),
    "selective_recomputation": replace(STANDARD, selective_recomputation=True),
    "in_place_gradients": replace(STANDARD, in_place_gradients=True),
    "fused_optimizer": replace(STANDARD, fused_optimizer=True),
    "optimizer_states": replace(STANDARD, optimizer_states="disk"),
}


def weights_after(
    encoder: SpladeEncoder, triples: Sequence[Triple], config: TrainConfig, dtype: torch.dtype, *, sgd: bool
) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(encoder).to(dtype)
    trainer = Trainer(model, triples, config)
    if sgd:
        trainer.optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)  # type: ignore[assignment]
    trainer.train()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def plain_weights(tokenizer: Tokenizer, triples: Sequence[Triple]) -> Callable[..., dict[str, torch.Tensor]]:
    """:func:`weights_after` in the standard mode, computed once for each configuration."""
    encoder = build_preset("toy", tokenizer, seed=0)

    @cache
    def after(config: TrainConfig, dtype: torch.dtype, *, sgd: bool) -> dict[str, torch.Tensor]:
        return weights_after(encoder, triples, replace(config, memory=STANDARD), dtype, sgd=sgd)

    return after


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize(("max_steps", "accumulation"), [(1, 3), (10, 1)])
def test_weights_after_adamw_in_fp64_equal_those_of_the_standard_mode(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    plain_weights: Callable[..., dict[str, torch.Tensor]],
    memory: MemoryConfig,
    max_steps: int,
    accumulation: int,
) -> None:
    config = make_config(max_steps=max_steps, gradient_accumulation_steps=accumulation)

    plain = plain_weights(config, torch.float64, sgd=False)
    ours = weights_after(encoder, triples, replace(config, memory=memory), torch.float64, sgd=False)

    assert ours.keys() == plain.keys()
    for name, weight in plain.items():
        assert float((ours[name] - weight).abs().max()) <= 1e-6 * config.learning_rate, name
        assert not torch.equal(weight, encoder.get_parameter(name).double())  # it was trained


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize("max_steps", [1, 10])
def test_weights_after_sgd_in_fp32_equal_those_of_the_standard_mode(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    plain_weights: Callable[..., dict[str, torch.Tensor]],
    memory: MemoryConfig,
    max_steps: int,
) -> None:
    """Not AdamW: it divides by a gradient's size, so rounding alone decides where the true gradient is zero."""
    config = make_config(max_steps=max_steps, learning_rate=0.05)

    plain = plain_weights(config, torch.float32, sgd=True)
    ours = weights_after(encoder, triples, replace(config, memory=memory), torch.float32, sgd=True)

    largest = max(float(weight.abs().max()) for weight in plain.values())
    moved = max(float((weight - encoder.get_parameter(name).detach()).abs().max()) for name, weight in plain.items())
    assert moved > 1e-3
    for name, weight in plain.items():
        # An attention key's bias stays at zero but for rounding: it is held by the model's scale.
        scale = max(float(weight.abs().max()), 1e-3 * largest)
        assert float((ours[name] - weight).abs().max()) <= 1e-5 * scale, name
