"""Under autocast an exact technique may round elsewhere than eager does, but not more: both are compared with fp64."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from equality import Gradients, make_config, relative_error, trained_gradients
from tokenizers import Tokenizer

from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.head import splade_max, splade_max_eager
from splade_bench.model.presets import build_preset

STANDARD = MEMORY_MODES["standard"]
EFFICIENT = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=4)
MEMORIES: dict[str, MemoryConfig] = {
    "memory-efficient": EFFICIENT,
    "minimal-memory": MEMORY_MODES["minimal-memory"],
    "checkpointing": replace(EFFICIENT, activation_checkpointing=True),
    "head": replace(STANDARD, head="streaming"),
    "gradient_caching": replace(STANDARD, gradient_caching=True, mini_batch_size=4),
    "selective_recomputation": replace(STANDARD, selective_recomputation=True),
    "in_place_gradients": replace(STANDARD, in_place_gradients=True),
}
SEEDS = range(6)
# Errors are sums of roundings, so two ways that round equally often still differ by chance: this much over all seeds.
SLACK = 1.05
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module", params=PRECISIONS)
def references(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, triples: Sequence[Triple]
) -> tuple[str, list[Gradients], float]:
    """A precision, each seed's gradients in fp64, and the sum of eager's relative errors under that autocast."""
    exact, error = [], 0.0
    for seed in SEEDS:
        encoder = build_preset("toy", tokenizer, seed=seed)
        config = make_config(memory=STANDARD, max_grad_norm=0.0, seed=seed)
        exact.append(trained_gradients(encoder, triples, config, torch.float64))
        low = trained_gradients(encoder, triples, replace(config, mixed_precision=request.param), torch.float32)
        error += relative_error(low, exact[-1])
    return request.param, exact, error


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_the_gradients_error_under_autocast_is_no_larger_than_that_of_the_standard_mode(
    references: tuple[Any, list[Gradients], float],
    tokenizer: Tokenizer,
    triples: Sequence[Triple],
    memory: MemoryConfig,
) -> None:
    precision, exact, eager_error = references
    error = 0.0
    for seed in SEEDS:
        encoder = build_preset("toy", tokenizer, seed=seed)
        config = make_config(memory=memory, max_grad_norm=0.0, seed=seed, mixed_precision=precision)
        error += relative_error(trained_gradients(encoder, triples, config, torch.float32), exact[seed])

    assert 1e-5 < error <= SLACK * eager_error


@pytest.mark.parametrize("keep_winners", [False, True])
# A bias as large as the logits takes most of them away: what is left must not have been rounded before.
@pytest.mark.parametrize("bias", [0.0, -1.0, -8.0])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_heads_error_under_autocast_is_no_larger_than_eagers(
    precision: str, bias: float, keep_winners: bool
) -> None:
    errors = {"ours": 0.0, "eager": 0.0}
    for seed in range(12):
        exact = head_results(splade_max_eager, torch.float64, None, bias, seed)
        ours = head_results(splade_max, torch.float32, PRECISIONS[precision], bias, seed, keep_winners=keep_winners)
        eager = head_results(splade_max_eager, torch.float32, PRECISIONS[precision], bias, seed)
        errors["ours"] += relative_error(ours, exact)
        errors["eager"] += relative_error(eager, exact)

    assert 1e-6 < errors["ours"] <= SLACK * errors["eager"]


def head_results(
    head: Any, dtype: torch.dtype, autocast: torch.dtype | None, bias: float, seed: int, **options: bool
) -> dict[str, torch.Tensor]:
    """The vectors and the gradients of the head's three inputs, for inputs that bf16 and fp16 hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hidden": (3, 24, 16), "weight": (400, 16), "upstream": (3, 400)}
    made = {
        name: torch.randn(shape, generator=generator).to(torch.bfloat16).to(dtype) for name, shape in shapes.items()
    }
    upstream = made.pop("upstream")
    leaves = made | {"bias": torch.full((400,), bias, dtype=dtype)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    mask = (torch.arange(24) < torch.tensor([24, 9, 3])[:, None]).long()
    with torch.autocast("cpu", autocast) if autocast else nullcontext():
        reps = head(leaves["hidden"], leaves["weight"], leaves["bias"], mask, **options)
    gradients = torch.autograd.grad(reps, list(leaves.values()), upstream.to(reps.dtype))
    return {"reps": reps.detach(), **dict(zip(leaves, gradients, strict=True))}
