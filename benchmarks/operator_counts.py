"""Counts the operators of a step on an accelerator's paths: a host that launches kernels needs time for each.

The CPU runs CUDA's paths, so a machine without an accelerator can count them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from accelerator.on_device import changed_settings
from torch.utils._python_dispatch import TorchDispatchMode

from splade_bench.batching.batches import TextBatch
from splade_bench.batching.mini_batches import cut_into_mini_batches
from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.settings import SETTINGS
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext

# Two of these paths are for the CPU: an accelerator has fused kernels.
_EFFICIENT = replace(MEMORY_MODES["memory-efficient"], compact_dropout=False, streaming_attention=False)
STEPS: dict[str, MemoryConfig] = {
    "memory-efficient": _EFFICIENT,
    "without selective recomputation": replace(_EFFICIENT, selective_recomputation=False),
}
PLAIN = "plain model"
# They make a tensor or another view of one, and start nothing on a device.
_STARTS_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "detach")


class OperatorCount(TorchDispatchMode):
    """Counts the operators that run on a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if not is_view and func.overloadpacket.__name__ not in _STARTS_NOTHING:
            self.operators += 1
        return func(*args, **(kwargs or {}))


def count_operators() -> list[dict[str, Any]]:
    """A row for the plain model (its forward, the loss, backward) and for each of :data:`STEPS`, over the same texts.

    The batch fits into one mini-batch, as on a GPU: 24 texts of 64 tokens, BERT's shape with 6 layers.
    """
    with changed_settings("cpu", **asdict(SETTINGS["cuda"])):
        plain = _operators_of(None)
        rows = [{"step": PLAIN, "operators": plain, "ratio": 1.0}]
        for name, memory in STEPS.items():
            operators = _operators_of(memory)
            rows.append({"step": name, "operators": operators, "ratio": operators / plain})
    return rows


def _operators_of(memory: MemoryConfig | None) -> int:
    """Operators of a forward and backward pass with the gradients already there, as in an accumulated batch."""
    config = TrainConfig(batch_size=8, max_length=64, memory=memory or MEMORY_MODES["standard"])
    encoder = build_preset("mini", train_tokenizer((), vocab_size=30522), seed=0, dropout=0.1, attention_dropout=0.1)
    encoder.configure(config.memory)
    encoder.train()
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    source = SyntheticBatches(
        batch_size=8,
        max_length=64,
        vocab_size=30522,
        negatives_per_query=1,
        batches_per_epoch=1,
        seed=0,
        lengths="full",
    )
    batch, loss = next(source.batches(0)), SpladeLoss(config)
    count = OperatorCount()
    with count:
        if memory is None:
            (whole,) = cut_into_mini_batches(batch.groups, max_tokens=10**6, max_texts=None, pad_to_multiple_of=None)
            _plain_step(encoder, whole.texts, loss, queries=len(batch))
        else:
            gradcache_step(encoder, batch, loss, StepContext(active_share=0.01))
    return count.operators


def _plain_step(encoder: SpladeEncoder, texts: TextBatch, loss: SpladeLoss, *, queries: int) -> None:
    reps = encoder(texts)
    loss(reps[:queries], reps[queries:]).total.backward()
