"""What processes of one training send each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from splade_bench.errors import TrainingError


class RankError(TrainingError):
    """Another process of the training failed, died or hangs."""


class Group(ABC):
    """The processes of a training, as one of them sees them. All call the same methods in the same order.

    A method raises :class:`RankError` if another process ended or does not answer.

    Attributes:
        exchanged_bytes: what this process sent to the others by :meth:`exchange` and :meth:`broadcast`.
        reduced_bytes: what it gave to :meth:`add_up`. How often a byte then travels is the library's choice.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.exchanged_bytes = self.reduced_bytes = 0

    def exchange(self, sent: Tensor, sent_sizes: Sequence[int], received_sizes: Sequence[int]) -> Tensor:
        """Send a piece of ``sent`` [sum of sizes] to each process, and return the pieces from each, one after another.

        Args:
            sent: contiguous, the pieces by rank.
            sent_sizes: elements for each rank.
            received_sizes: elements from each rank.
        """
        others = sum(sent_sizes) - sent_sizes[self.rank]
        self.exchanged_bytes += others * sent.element_size()
        received = sent.new_empty(sum(received_sizes))
        self._exchange(received, sent, received_sizes, sent_sizes)
        return received

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, which is contiguous, by its sum over all processes: the same bits everywhere."""
        self.reduced_bytes += sum(tensor.nbytes for tensor in tensors)
        self._add_up(tensors)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Replace a tensor, which is contiguous, by that of the process with the rank ``source``."""
        if self.rank == source:
            self.exchanged_bytes += (self.size - 1) * tensor.nbytes
        self._broadcast(tensor, source)

    @abstractmethod
    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None: ...

    @abstractmethod
    def _add_up(self, tensors: Sequence[Tensor]) -> None: ...

    @abstractmethod
    def _broadcast(self, tensor: Tensor, source: int) -> None: ...

    @abstractmethod
    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of each process, by rank. They stay in the host's memory."""

    @abstractmethod
    def gather_objects(self, value: Any) -> list[Any]:
        """The value of each process, by rank: what :mod:`pickle` can copy."""
