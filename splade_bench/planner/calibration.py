"""A short run of a small model: what operators cost beyond their work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig
from splade_bench.device.storages import LiveStorages
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.rates import Rates
from splade_bench.planner.work import CountedWork
from splade_bench.training.step_clock import StepClock
from splade_bench.training.trainer import Trainer

_LENGTH = 64
_STEPS = 5
_CONFIG = TrainConfig(
    max_length=_LENGTH,
    max_steps=_STEPS,
    batch_size=4,
    negatives_per_query=0,
    memory=MemoryConfig(mini_batch_tokens=2 * _LENGTH),
)


def calibrated_rates(
    make_small: Callable[[], SpladeEncoder], device: torch.device, *, folder: str | None = None
) -> Rates:
    """The rates of ``device``, with the price of an operator from real optimizer steps of a small encoder.

    The encoder's tensors should fill the caches, as those of a real model do: between operators that leave the caches
    alone, Python is several times as fast. Seeds torch's random numbers, as every training does.
    """
    rates = Rates(device, folder=folder)
    encoder = make_small().to(device)
    batches = SyntheticBatches(
        batch_size=_CONFIG.batch_size,
        max_length=_LENGTH,
        vocab_size=encoder.vocab_size,
        negatives_per_query=0,
        batches_per_epoch=_STEPS,
        seed=0,
    )
    work, clock = CountedWork(), StepClock(device)
    counted = Trainer(encoder, batches, replace(_CONFIG, max_steps=1))
    with LiveStorages(operators=work):
        counted.train()
    timed = Trainer(encoder, batches, _CONFIG, observers=[clock])
    clock.start()
    timed.train()
    rates.learn_operators(work.work, min(clock.step_times_s()))
    return rates
