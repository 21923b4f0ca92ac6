"""Processes of one training as threads of this one: they send each other the same, without being started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from splade_bench.distributed.group import Group

Result = TypeVar("Result")
_PATIENCE_S = 60


class ThreadGroup(Group):
    """A group whose processes are threads that meet at a barrier."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, size)
        self._board, self._barrier = board, barrier

    def gather_objects(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(_PATIENCE_S)
        found = [*self._board]
        self._barrier.wait(_PATIENCE_S)
        return found

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        return self.gather_objects([*numbers])

    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None:
        pieces = [pieces[self.rank] for pieces in self.gather_objects(sent.split([*sent_sizes]))]
        assert [len(piece) for piece in pieces] == [*received_sizes]
        received.copy_(torch.cat(pieces))
        self._barrier.wait(_PATIENCE_S)

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            assert tensor.is_contiguous()
            total = sum(self.gather_objects(tensor.clone()))
            tensor.copy_(total)

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        assert tensor.is_contiguous()
        sent = self.gather_objects(tensor)[source]
        if self.rank != source:
            tensor.copy_(sent)
        self._barrier.wait(_PATIENCE_S)


def run_together(size: int, work: Callable[[ThreadGroup], Result]) -> list[Result]:
    """What ``work`` returns for each rank. An error of one ends the others."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def run(rank: int) -> Result:
        try:
            return work(ThreadGroup(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
