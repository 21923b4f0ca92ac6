"""Activation checkpointing of transformers, with our operators and the same random numbers in both computations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from splade_bench.device.heap import HeapTrimmer
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.lean import lean_operators, recomputation_scope
from splade_bench.model.rng import RngState, capture_rng, restored_rng


def set_checkpointing(
    body: PreTrainedModel, memory: MemoryConfig, trimmer: HeapTrimmer | None, device: torch.device
) -> None:
    """Switch activation checkpointing of a model on or off."""
    if memory.activation_checkpointing:
        options = {  # torch keeps only CUDA's generator for the second computation of a layer
            "use_reentrant": False,
            "context_fn": lambda: (recomputation_scope(), _recomputing(memory, trimmer, capture_rng(device))),
        }
        checkpointing(body, "{}_checkpointing_enable")(options)
    elif checkpointing(body, "is_{}_checkpointing"):
        checkpointing(body, "{}_checkpointing_disable")()


def checkpointing(body: PreTrainedModel, name: str) -> Any:
    """An attribute of transformers' activation checkpointing, which has another name up to transformers 5.20."""
    try:
        return getattr(body, name.format("activation"))
    except AttributeError:
        return getattr(body, name.format("gradient"))


@contextmanager
def _recomputing(memory: MemoryConfig, trimmer: HeapTrimmer | None, rng: RngState) -> Iterator[None]:
    """A layer inside the block takes the same paths and random numbers as the first time."""
    with restored_rng(rng), lean_operators(memory, trimmer):
        yield
