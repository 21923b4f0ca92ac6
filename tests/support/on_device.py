"""The device of ``tests/accelerator``, and what its tests share: memory settings, and the gradients of one batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from architectures import make_model, wrap
from equality import Bounds, Gradients, gradients_of, make_config
from tokenizers import Tokenizer

from splade_bench.batching.batches import TripleBatch
from splade_bench.device.devices import available_devices
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext, direct_step

_NAMED = os.environ.get("SPLADE_TEST_DEVICE")
DEVICE = _NAMED or available_devices()[0]
ON_ACCELERATOR = pytest.mark.skipif(DEVICE == "cpu" and not _NAMED, reason="this machine has no accelerator")
ON_CUDA = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
NEEDS_FP64 = pytest.mark.skipif(DEVICE == "mps", reason="MPS has no float64")

FP32 = Bounds(torch.float32, tolerance=2e-5, floor=1e-3)
STANDARD = MEMORY_MODES["standard"]
# In mini-batches, whatever the model's size.
CUT = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=3)
MEMORIES: Mapping[str, MemoryConfig] = {
    **MEMORY_MODES,
    "memory-efficient, cut": CUT,
    "checkpointing": replace(CUT, activation_checkpointing=True),
    "head": replace(STANDARD, head="streaming"),
    "gradient_caching": replace(STANDARD, gradient_caching=True, mini_batch_size=4),
    "selective_recomputation": replace(STANDARD, selective_recomputation=True),
    "in_place_gradients": replace(STANDARD, in_place_gradients=True),
    "empty_cache": replace(CUT, empty_cache_interval=1),
}
# Its LayerNorm computes in float32 whatever the model's type.
FLOAT32_INSIDE = {"deberta"}
WITHOUT_CHECKPOINTING = {"mpnet", "albert"}


def on_cpu(gradients: Gradients) -> Gradients:
    return {name: gradient.cpu() for name, gradient in gradients.items()}


def distance(ours: Gradients, plain: Gradients, floor: float) -> float:
    """What ``assert_gradients_are_near`` bounds: the largest difference of an element, by the scale of its tensor."""
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    return max(
        float((ours[name] - gradient).abs().max()) / max(float(gradient.abs().max()), floor * largest)
        for name, gradient in plain.items()
    )


def gradients_of_batch(encoder: SpladeEncoder, batch: TripleBatch, memory: MemoryConfig, seed: int = 0) -> Gradients:
    """Those of one forward and backward pass in training mode. The encoder is left without gradients."""
    encoder.configure(memory)
    encoder.train()
    torch.manual_seed(seed)
    step = gradcache_step if memory.gradient_caching else direct_step
    step(encoder, batch, SpladeLoss(make_config()), StepContext())
    gradients = gradients_of(encoder)
    for parameter in encoder.parameters():
        parameter.grad = None
    return gradients


def dropping_encoder(
    tokenizer: Tokenizer, memory: MemoryConfig, device: torch.device, dtype: torch.dtype, architecture: str = "bert"
) -> SpladeEncoder:
    model = make_model(architecture, dropout=0.2, vocab_size=512)
    encoder = SpladeEncoder(model, wrap(tokenizer)).to(dtype).to(device).train()
    encoder.configure(memory)
    return encoder
