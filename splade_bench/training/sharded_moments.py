"""AdamW's moments shared out between the processes of a training (ZeRO stage 1, Rajbhandari et al., 2020).

Each process keeps the moments of its own elements, updates these, and sends them to the others. torch's
``ZeroRedundancyOptimizer`` gives the same bits, but it shares out whole parameters, and one of them, the token
embeddings, can be most of a model. It collects all moments in one process before they can be saved. And it works in a
real process group only, which a plan has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splade_bench.distributed.weights import element_shares, in_few_messages, overlap
from splade_bench.training.moments import Moments

if TYPE_CHECKING:
    from splade_bench.training.together import SeveralProcesses

QUESTION_NUMBERS = 4
"""Numbers of the question for a window: which parameter, which moment, its first element, the one after its last."""


class ShardedMoments(Moments):
    """Both moments of this process's elements. Exact.

    Memory: 8 bytes for each of its elements, which are an even share of all.

    Args:
        parameters: those that are trained, in the same order in all processes.
        processes: of the training.
    """

    def __init__(self, parameters: Sequence[Tensor], processes: SeveralProcesses) -> None:
        self._parameters = parameters
        self._numbers = {parameter: number for number, parameter in enumerate(parameters)}
        self._processes, self._group = processes, processes.group
        self._shares = element_shares([parameter.numel() for parameter in parameters], processes.size)
        self._moments: dict[Tensor, Tensor] = {}

    @property
    def size_bytes(self) -> int:
        """What this process keeps so far."""
        return sum(both.nbytes for both in self._moments.values())

    def own(self, parameter: Tensor) -> slice:
        return self._shares[self._group.rank][self._numbers[parameter]]

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        first, second = self._of(parameter, window)
        return first, second

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        pass  # they were updated where they are kept

    def kept(self, parameter: Tensor, row: int, window: slice) -> Tensor:
        """As in the others, from all processes, on rank 0 while the others wait for it.

        Raises:
            TrainingError: they do not wait.
        """
        question = self._numbers[parameter], row, window.start, window.stop
        self._processes.ask(question)
        return self.answer(question)

    def answer(self, question: Sequence[int]) -> Tensor:
        """Send rank 0 what this process has of a window. All of it on rank 0, nothing elsewhere."""
        number, row, start, stop = question
        parameter, rank = self._parameters[number], self._group.rank
        parts = [overlap(shares[number], slice(start, stop)) for shares in self._shares]
        sizes = [part.stop - part.start for part in parts]
        nothing = [0] * self._group.size
        own = self._of(parameter, parts[rank])[row].contiguous()
        return self._group.exchange(own, [sizes[rank], *nothing[1:]], nothing if rank else sizes)

    def keep(self, parameter: Tensor, row: int, window: slice, moment: Tensor) -> None:
        self._of(parameter, window)[row] = moment

    @torch.no_grad()
    def share_updated(self, parameters: Sequence[Tensor]) -> None:
        for rank, shares in enumerate(self._shares):
            pieces = (parameter.detach().view(-1)[shares[self._numbers[parameter]]] for parameter in parameters)
            for message in in_few_messages([piece for piece in pieces if len(piece)]):
                self._group.broadcast(message, rank)

    def _of(self, parameter: Tensor, window: slice) -> Tensor:
        """Both moments of a window of this process's elements, [2, elements]."""
        own = self.own(parameter)
        if parameter not in self._moments:
            shape = 2, own.stop - own.start
            self._moments[parameter] = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        return self._moments[parameter][:, window.start - own.start : window.stop - own.start]
