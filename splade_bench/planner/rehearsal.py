"""The trainer's own step on fake tensors: every operator is called, nothing is computed or allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from splade_bench.batching.batches import Targets, TextBatch, TripleBatch, round_up
from splade_bench.batching.sources import TripleSource, usual_batch, widest_batch
from splade_bench.config import TrainConfig
from splade_bench.device.devices import memory_on
from splade_bench.device.planned import PlannedDevice, planning_for
from splade_bench.device.storages import LivePeak, LiveStorages, StorageListener
from splade_bench.distributed.simulated import SimulatedGroup
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.recorded_reads import answered_reads
from splade_bench.training.together import SeveralProcesses
from splade_bench.training.trainer import Trainer

# Tokens of each text in the first optimizer step, which creates AdamW's moments.
_FIRST_LENGTH = 8
# The second one has the planned lengths.
REHEARSED_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of each text in the batch that decides a run's peak, by group: queries, positives, k-th negatives."""

    groups: tuple[tuple[int, ...], ...]
    usual: tuple[tuple[int, ...], ...] | None = None
    """Those of a usual batch, by which a fit predicts the time of a step. None: that of ``groups`` decides."""
    processes: int = 1
    """How many processes have as many texts each; they train on all of them together."""

    @classmethod
    def full(cls, config: TrainConfig) -> Lengths:
        """Every text has ``max_length`` tokens."""
        return cls(groups=((config.max_length,) * config.batch_size,) * (2 + config.negatives_per_query))

    @classmethod
    def widest(cls, source: TripleSource) -> Lengths:
        """Those of the first epoch's widest batch."""
        return cls(groups=widest_batch(source).lengths)

    def with_usual(self, source: TripleSource) -> Lengths:
        """The same, with the usual batch of a source."""
        return replace(self, usual=usual_batch(source).lengths)

    def cut(self, queries: int) -> Lengths:
        """Those of a batch of ``queries`` queries: the longest texts of each group, or texts of every length of it."""
        groups = tuple(tuple(sorted(group, reverse=True)[:queries]) for group in self.groups)
        usual = self.usual and tuple(tuple(_spread(sorted(group), queries)) for group in self.usual)
        return replace(self, groups=groups, usual=usual)

    def share_of(self, processes: int) -> Lengths:
        """Those of one of so many processes, which gets the longest texts of each group."""
        return replace(self.cut(-(-len(self.groups[0]) // processes)), processes=processes)


def _spread(lengths: Sequence[int], count: int) -> Sequence[int]:
    """``count`` of the lengths at equal distances; all if there are fewer."""
    count = min(count, len(lengths))
    return [lengths[(2 * number + 1) * len(lengths) // (2 * count)] for number in range(count)]


def rehearse(
    make_encoder: Callable[[], SpladeEncoder],
    config: TrainConfig,
    lengths: Lengths,
    *,
    device: PlannedDevice,
    active_share: float,
    listener: StorageListener | None = None,
) -> LivePeak:
    """Run two optimizer steps, the first on a few tokens (but for CUDA), and return the peak of live bytes.

    CUDA's allocator keeps what the first step frees in the pieces that it was cut into, with AdamW's moments among
    them. There a first step on a few tokens would leave other pieces than the run's own first step.

    The step is that of :class:`splade_bench.training.trainer.Trainer`. Where it reads values of tensors,
    :mod:`splade_bench.device.reads` has assumed ones. ``make_encoder`` is called where tensors are fake.

    Raises:
        ConfigError: the model cannot take texts of ``max_length``, or cannot be trained with this configuration.
    """
    with on_fake_tensors(device):
        encoder = make_encoder()
        encoder.require_positions(config.max_length)
        config = replace(config, max_steps=REHEARSED_STEPS, memory=memory_on(encoder.device, config.memory))
        live = LiveStorages(vocab_size=encoder.vocab_size, listener=listener, operators=device.work)
        batches = FakeBatches(lengths, config, first_is_small=device.type != "cuda")
        together = _RehearsedProcesses(lengths.processes) if lengths.processes > 1 else None
        trainer = Trainer(encoder, batches, config, observers=[live], active_share=active_share, processes=together)
        live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
        with live:
            trainer.train()
    return live.peak()


@contextmanager
def on_fake_tensors(device: PlannedDevice) -> Iterator[None]:
    """Inside the block tensors have no content, and steps run as they would on ``device``."""
    # MPS has fused attention without gradients only; with them torch runs products and a softmax.
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "mps" else nullcontext()
    with planning_for(device), FakeTensorMode(), answered_reads(), attention:
        yield


class _RehearsedProcesses(SeveralProcesses):
    """One of several, where tensors have no values to compare."""

    def __init__(self, processes: int) -> None:
        super().__init__(SimulatedGroup(0, processes))

    def begin_run(self, model: nn.Module, seed: int) -> None:
        pass


class FakeBatches:
    """Batches of the planned lengths; before them one optimizer step of small ones if ``first_is_small``."""

    batches_per_epoch = 2**31

    def __init__(self, lengths: Lengths, config: TrainConfig, *, first_is_small: bool = True) -> None:
        self._groups = lengths.groups
        self._config = config
        self._first_is_small = first_is_small
        self._processes = lengths.processes

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        small = self._config.gradient_accumulation_steps if self._first_is_small else 0
        for _ in range(start, small):
            yield self._batch([(_FIRST_LENGTH,)] * len(self._groups))
        while True:
            yield self._batch(self._groups)

    def record_name(self, row: int) -> str:
        return f"planned text {row + 1}"

    def _batch(self, groups: Sequence[Sequence[int]]) -> TripleBatch:
        queries, *documents = map(self._texts, groups)
        all_queries = self._processes * len(groups[0])
        teacher_scores = torch.empty(all_queries, len(documents)) if self._config.needs_teacher else None
        return TripleBatch(queries, tuple(documents), targets=Targets(teacher_scores=teacher_scores))

    def _texts(self, lengths: Sequence[int]) -> TextBatch:
        memory, width = self._config.memory, self._config.max_length
        if memory.padding == "longest":
            width = round_up(max(lengths), memory.pad_to_multiple_of, at_most=width)
        # Two allocations, as a batch of token ids makes.
        ids, mask = (torch.empty(len(lengths), width, dtype=torch.int64) for _ in range(2))
        return TextBatch(ids, mask, tuple(lengths))
