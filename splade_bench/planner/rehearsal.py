"""The trainer's own step on fake tensors: every operator is called, nothing is computed or allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from splade_bench.batching.batches import TextBatch, TripleBatch, TripleSource, round_up
from splade_bench.config import TrainConfig
from splade_bench.device.devices import pad_to_multiple_of
from splade_bench.device.planned import PlannedDevice, planning_for
from splade_bench.device.storages import LivePeak, LiveStorages, StorageListener
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.work import CountedWork
from splade_bench.training.trainer import Trainer, TrainObserver

# Tokens of each text in the first optimizer step, after which AdamW's moments are there.
_FIRST_LENGTH = 8
# That one and one of the planned lengths.
REHEARSED_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of each text of the batch that decides a run's peak, by groups: queries, positives, k-th negatives."""

    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def full(cls, config: TrainConfig) -> Lengths:
        """Every text at ``max_length``."""
        return cls(groups=((config.max_length,) * config.batch_size,) * (2 + config.negatives_per_query))

    @classmethod
    def widest(cls, source: TripleSource) -> Lengths:
        """Those of the batch of the first epoch that has most tokens, padding included."""
        widest = max(source.batches(epoch=0), key=lambda batch: batch.tokens)
        return cls(groups=widest.lengths)

    def longest(self, queries: int) -> Lengths:
        """Those of a batch of so many queries, the longest of each group: any of its texts may come together."""
        return Lengths(groups=tuple(tuple(sorted(group, reverse=True)[:queries]) for group in self.groups))


def rehearse(
    make_encoder: Callable[[], SpladeEncoder],
    config: TrainConfig,
    lengths: Lengths,
    *,
    device: PlannedDevice,
    active_share: float,
    listener: StorageListener | None = None,
    counted: CountedWork | None = None,
) -> LivePeak:
    """Two optimizer steps, the first on a few tokens: live bytes at their peak.

    The step is that of :class:`splade_bench.training.trainer.Trainer`. Where it asks its tensors for numbers, those of
    :mod:`splade_bench.device.reads` stand in. ``make_encoder`` is called where tensors are fake; ``counted``, which
    ``device`` then has to name too, is left with the work of the second step.

    Raises:
        ConfigError: the model cannot take texts of ``max_length``, or be trained with this configuration.
    """
    config = replace(config, max_steps=REHEARSED_STEPS)
    with on_fake_tensors(device):
        encoder = make_encoder()
        encoder.require_positions(config.max_length)
        encoder.active_share = active_share
        live = LiveStorages(vocab_size=encoder.vocab_size, listener=listener, operators=counted)
        observers: list[TrainObserver] = [live, counted] if counted else [live]
        batches = FakeBatches(lengths, config, pad_to_multiple_of=pad_to_multiple_of(config.memory, encoder.device))
        trainer = Trainer(encoder, batches, config, observers=observers)
        live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
        with live:
            trainer.train()
    return live.peak()


@contextmanager
def on_fake_tensors(device: PlannedDevice) -> Iterator[None]:
    """Inside the block tensors have no content, and steps run as they would on ``device``."""
    # Without gradients MPS has a fused attention; with them torch decomposes it into products and a softmax.
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "mps" else nullcontext()
    with planning_for(device), FakeTensorMode(), attention:
        yield


class FakeBatches:
    """One optimizer step of small batches, then batches of the planned lengths."""

    batches_per_epoch = 2**31

    def __init__(self, lengths: Lengths, config: TrainConfig, *, pad_to_multiple_of: int = 1) -> None:
        self._lengths = lengths
        self._config = config
        self._pad_to_multiple_of = pad_to_multiple_of

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        for _ in range(self._config.gradient_accumulation_steps):
            yield self._batch([(_FIRST_LENGTH,)] * len(self._lengths.groups))
        while True:
            yield self._batch(self._lengths.groups)

    def _batch(self, groups: Sequence[Sequence[int]]) -> TripleBatch:
        queries, *documents = map(self._texts, groups)
        return TripleBatch(queries, tuple(documents))

    def _texts(self, lengths: Sequence[int]) -> TextBatch:
        config = self._config
        width = config.max_length
        if config.memory.padding == "longest":
            width = round_up(max(lengths), self._pad_to_multiple_of, at_most=width)
        # One by one, as they are made of token ids.
        ids, mask = (torch.empty(len(lengths), width, dtype=torch.int64) for _ in range(2))
        return TextBatch(ids, mask, tuple(lengths))
