"""What the code assumes of gloo, asked of gloo itself between threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import ProcessGroupGloo

SIZE = 3


def in_each(work: Callable[[ProcessGroupGloo, int], Tensor]) -> list[Tensor]:
    store, ready = HashStore(), threading.Barrier(SIZE)

    def run(rank: int) -> Tensor:
        group = ProcessGroupGloo(store, rank, SIZE, timedelta(seconds=60))
        result = work(group, rank)
        ready.wait(60)  # a group that goes closes its connections
        return result

    with ThreadPoolExecutor(SIZE) as pool:
        return [*pool.map(run, range(SIZE))]


@pytest.mark.parametrize("elements", [1, 1000, 3_000_001])
def test_a_sum_has_the_same_bits_on_every_rank(elements: int) -> None:
    def add_up(group: ProcessGroupGloo, rank: int) -> Tensor:
        tensor = torch.randn(elements, generator=torch.Generator().manual_seed(rank))
        group.allreduce([tensor]).wait()
        return tensor

    first, *others = in_each(add_up)

    assert all(torch.equal(first, other) for other in others)
    seeds = (torch.Generator().manual_seed(rank) for rank in range(SIZE))
    torch.testing.assert_close(first, sum(torch.randn(elements, generator=seed) for seed in seeds))


def test_a_part_of_a_tensor_is_replaced_where_it_is() -> None:
    def broadcast(group: ProcessGroupGloo, rank: int) -> Tensor:
        whole = torch.full((9,), float(rank))
        group.broadcast(whole[3:5], 1).wait()
        return whole

    for rank, whole in enumerate(in_each(broadcast)):
        assert whole.tolist() == [rank] * 3 + [1] * 2 + [rank] * 4


def test_pieces_of_any_size_arrive_in_the_order_of_ranks() -> None:
    sizes = [[0, 2, 1], [3, 0, 0], [2, 5, 4]]  # from, to

    def exchange(group: ProcessGroupGloo, rank: int) -> Tensor:
        sent = torch.cat([torch.full((count,), float(10 * rank + to)) for to, count in enumerate(sizes[rank])])
        arriving = [sizes[one][rank] for one in range(SIZE)]
        received = torch.empty(sum(arriving))
        group.alltoall_base(received, sent, arriving, sizes[rank]).wait()
        return received

    for rank, received in enumerate(in_each(exchange)):
        expected = [float(10 * one + rank) for one in range(SIZE) for _ in range(sizes[one][rank])]
        assert received.tolist() == expected
