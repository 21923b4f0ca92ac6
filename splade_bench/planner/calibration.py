"""One short run of a small model: what its calls cost beyond the work that they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from splade_bench.batching.batches import TextBatch, TripleBatch
from splade_bench.config import MemoryConfig, TrainConfig
from splade_bench.device.devices import synchronize
from splade_bench.device.storages import LiveStorages
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.rates import Rates
from splade_bench.planner.work import CountedWork
from splade_bench.training.trainer import Trainer

_LENGTH = 64
_CONFIG = TrainConfig(
    max_length=_LENGTH, batch_size=4, negatives_per_query=0, memory=MemoryConfig(mini_batch_tokens=2 * _LENGTH)
)
_STEPS = 5


def calibrated_rates(
    make_small: Callable[[], SpladeEncoder], device: torch.device, *, folder: str | None = None
) -> Rates:
    """The rates of ``device``, with what a call costs from real optimizer steps of a small encoder.

    Of a model whose tensors fill the caches, as those of any real one do: Python is several times as fast between
    operators that leave them alone. Seeds torch's random numbers, as every training does.
    """
    rates = Rates(device, folder=folder)
    encoder = make_small().to(device)
    counted, clock = CountedWork(), _Clock(device)
    with LiveStorages(operators=counted):
        Trainer(encoder, _Batches(), replace(_CONFIG, max_steps=1), observers=[counted]).train()
    Trainer(encoder, _Batches(), replace(_CONFIG, max_steps=_STEPS), observers=[clock]).train()
    rates.learn_calls(counted.work, min(end_s - start_s for start_s, end_s in pairwise(clock.ends_s)))
    return rates


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
