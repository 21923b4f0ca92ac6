"""One of several processes whose others are not there: for plans and for measurements of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from splade_bench.distributed.group import Group


class SimulatedGroup(Group):
    """Each process has what this one has. What comes from the others has its size, but no sense."""

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        return [[*numbers] for _ in range(self.size)]

    def gather_objects(self, value: Any) -> list[Any]:
        return [value] * self.size

    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None:
        received.fill_(1)

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        pass

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        pass
