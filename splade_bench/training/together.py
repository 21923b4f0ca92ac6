"""What the training loop does otherwise if several processes train one model; for one process it is nothing.

Every process has all weights and the same gradient, and has them updated by the same optimizer steps. The loss of a
batch is :class:`splade_bench.training.shared_loss.SharedLoss`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from splade_bench.batching.shares import Share
from splade_bench.distributed.group import Group, RankError
from splade_bench.distributed.weights import in_few_messages
from splade_bench.errors import ConfigError, TrainingError, error_line
from splade_bench.objective import Objective
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.moments import Moments
from splade_bench.training.sharded_moments import QUESTION_NUMBERS, ShardedMoments
from splade_bench.training.shared_loss import SharedLoss
from splade_bench.training.state import TrainState
from splade_bench.training.step import StopRequested

_NO_QUESTION = [-1] * QUESTION_NUMBERS


class OneProcess:
    """A training in one process: all of this is what the loop has always done."""

    rank = 0
    size = 1
    share = Share()

    def loss_of(self, objective: Objective) -> SpladeLoss:
        """The loss of a batch, given the vectors of this process's texts."""
        return SpladeLoss(objective)

    def meet(self) -> None:
        """Block until all processes are here."""

    def begin_run(self, model: nn.Module, seed: int) -> None:
        """The first optimizer step is next."""

    def begin_batch(self, state: TrainState) -> None:
        """The next batch begins: raise :class:`StopRequested` if the run shall end."""
        self.check_stop(state)

    def check_in_batch(self, state: TrainState) -> None:
        """Raise :class:`StopRequested` if a batch under way shall be left."""
        self.check_stop(state)

    def check_stop(self, state: TrainState) -> None:
        """Raise :class:`StopRequested` if this process was asked to end, between two steps."""
        if state.stop_requested:
            raise StopRequested

    def ask_to_stop(self, state: TrainState) -> None:
        """Let the run end as soon as it can. Signal handlers call it."""
        state.stop_requested = True

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Once before each optimizer step: let every process have the sum of all processes' gradients."""

    def sharded_moments(self, parameters: Sequence[Tensor]) -> Moments | None:
        """A place for the moments of these parameters that all processes share; None if there is one process."""
        return None

    @contextmanager
    def on_rank_0(self, state: TrainState) -> Iterator[None]:
        """What observers do is done inside of this block, on rank 0 alone: evaluate, save. It may end the run."""
        try:
            yield
        except StopRequested:
            state.stop_requested = True

    def record(self) -> dict[str, int]:
        """How many processes there are, and what this one sent to others so far."""
        return {"processes": 1}


class SeveralProcesses(OneProcess):
    """A training in all processes of a group. They end together, between two batches.

    A process draws the random numbers of a batch from a seed of its own, made of the run's seed, the number of the
    batch and its rank. So a checkpoint, which rank 0 writes, has the random states of all.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rank, self.size = group.rank, group.size
        self.share = Share(group.rank, group.size)
        self._asked = False
        self._seed = 0
        self._moments: ShardedMoments | None = None
        self._others_wait = False

    def loss_of(self, objective: Objective) -> SpladeLoss:
        return SharedLoss(objective, self.group)

    def meet(self) -> None:
        self.group.gather([0])

    def begin_run(self, model: nn.Module, seed: int) -> None:
        """Refuse to train with other weights than rank 0 has.

        Raises:
            ConfigError: the weights differ.
        """
        self._seed = seed
        found = [checksum for (checksum,) in self.group.gather([_checksum(model)])]
        others = [rank for rank, checksum in enumerate(found) if checksum != found[0]]
        if others:
            raise ConfigError(f"the weights of rank {others[0]} are not those of rank 0: give all ranks the same model")

    def begin_batch(self, state: TrainState) -> None:
        if self._any(self._asked or state.stop_requested):
            state.stop_requested = True
            raise StopRequested
        torch.manual_seed(random.Random(f"{self._seed}/{state.micro_step}/{self.group.rank}").getrandbits(63))

    def check_in_batch(self, state: TrainState) -> None:
        pass  # the others would wait for this process

    def check_stop(self, state: TrainState) -> None:
        if self._asked or state.stop_requested:
            raise StopRequested

    def ask_to_stop(self, state: TrainState) -> None:
        self._asked = True

    @torch.no_grad()
    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        # A process without queries of this batch has no gradients, and one that no process has stays absent.
        flags = self.group.gather([int(parameter.grad is not None) for parameter in trained])
        gradients = []
        for parameter, has_gradient in zip(trained, map(any, zip(*flags, strict=True)), strict=True):
            if has_gradient:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
                gradients.append(parameter.grad)
        for message in in_few_messages(gradients):
            self.group.add_up([message])

    def sharded_moments(self, parameters: Sequence[Tensor]) -> Moments | None:
        self._moments = ShardedMoments(parameters, self)
        return self._moments

    def ask(self, question: Sequence[int]) -> None:
        """On rank 0: let all others answer a question about moments, while they wait for what it does alone.

        Raises:
            TrainingError: they do not wait: this process failed during a step, or they did.
        """
        if not self._others_wait:
            raise TrainingError(
                "the other processes have the rest of its moments (--optimizer-states sharded) and cannot send them now"
            )
        self.group.gather([0, 0, *question])

    @contextmanager
    def on_rank_0(self, state: TrainState) -> Iterator[None]:
        """All processes come here. What rank 0 decides inside, all do: go on, stop, or end with its error.

        Meanwhile the others answer its questions about moments.
        """
        error: BaseException | None = None
        self._others_wait = self.rank == 0
        try:
            yield
        except StopRequested:
            state.stop_requested = True
        except RankError:
            raise  # there is nobody to tell it
        except Exception as raised:
            error = raised
        finally:
            self._others_wait = False
        outcomes = self._outcomes([int(error is not None), int(state.stop_requested)])
        failed, stops = map(any, zip(*outcomes, strict=True))
        if failed:
            lines = self.group.gather_objects(error and error_line(error))
            if error is None:
                raise RankError(f"rank 0: {lines[0]}")
            raise error
        state.stop_requested = stops

    def _outcomes(self, own: Sequence[int]) -> list[list[int]]:
        """What each process made of it, once rank 0 has asked all its questions."""
        while True:
            found = self.group.gather([*own, *_NO_QUESTION])
            question = found[0][len(own) :]
            if question == _NO_QUESTION or self._moments is None:
                return [numbers[: len(own)] for numbers in found]
            self._moments.answer(question)

    def record(self) -> dict[str, int]:
        group = self.group
        return {
            "processes": self.size,
            "exchanged_bytes": group.exchanged_bytes,
            "reduced_bytes": group.reduced_bytes,
        }

    def _any(self, flag: bool) -> bool:
        return any(number for (number,) in self.group.gather([int(flag)]))


def _checksum(model: nn.Module) -> int:
    """Of all weights: it changes with every bit of them."""
    found = 0
    for parameter in model.parameters():
        found = zlib.crc32(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, found)
    return found
