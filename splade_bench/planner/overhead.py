"""What an operator costs beyond its own work: modules, autograd and this package's detours are Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from splade_bench.config import MemoryConfig, TrainConfig
from splade_bench.data.batching import TextBatch, TripleBatch
from splade_bench.devices import synchronize
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.work import CountedWork, calls
from splade_bench.storages import LiveStorages
from splade_bench.training.trainer import Trainer

_LENGTH = 16
_CONFIG = TrainConfig(
    max_length=_LENGTH, batch_size=4, negatives_per_query=0, memory=MemoryConfig(mini_batch_tokens=2 * _LENGTH)
)
_STEPS = 6


def call_seconds(make_toy: Callable[[], SpladeEncoder], device: torch.device) -> float:
    """Seconds an operator in a real optimizer step of a model so small that its operators themselves take none.

    Seeds torch's random numbers, as every training does.
    """
    encoder = make_toy().to(device)
    counted, clock = CountedWork(), _Clock(device)
    live = LiveStorages(operators=counted)
    with live:
        Trainer(encoder, _Batches(), replace(_CONFIG, max_steps=1), observers=[counted]).train()
    Trainer(encoder, _Batches(), replace(_CONFIG, max_steps=_STEPS), observers=[clock]).train()
    return min(end - start for start, end in pairwise(clock.ends_s)) / calls(counted.work)


class _Batches:
    """The same batch of full-length texts again and again."""

    batches_per_epoch = _STEPS

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        size = (_CONFIG.batch_size, _LENGTH)
        texts = TextBatch(
            torch.ones(size, dtype=torch.int64), torch.ones(size, dtype=torch.int64), (size[1],) * size[0]
        )
        for _ in range(self.batches_per_epoch):
            yield TripleBatch(texts, (texts,))


class _Clock:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ends_s: list[float] = []

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""

    def on_step_end(self, state: object, loss: object) -> None:
        """An optimizer step is done."""
        synchronize(self._device)
        self.ends_s.append(time.perf_counter())
