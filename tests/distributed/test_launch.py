"""What torchrun, accelerate and srun tell a process, and how a batch is shared out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splade_bench.batching.shares import Share
from splade_bench.distributed.launch import Launch, launch_of
from splade_bench.errors import ConfigError

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "2",
    "SLURM_STEP_NODELIST": "gpu[003-007,9]",
    "SLURM_JOB_ID": "4211234",
}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        (SRUN | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None),
        (TORCHRUN, Launch(3, 4, 1, "node7", 29500)),
        (SRUN | TORCHRUN, Launch(3, 4, 1, "node7", 29500)),
        (SRUN, Launch(5, 8, 2, "gpu003", 21234)),
        (SRUN | {"SLURM_STEP_NODELIST": "a-1,b-2"}, Launch(5, 8, 2, "a-1", 21234)),
        (SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}, Launch(5, 8, 2, "10.0.0.1", 1234)),
        # A batch script that starts one training without srun.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}, None),
    ],
)
def test_a_launcher_says_where_a_process_is(environment: Mapping[str, str], launch: Launch | None) -> None:
    assert launch_of(environment) == launch


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK is ''"),
        (TORCHRUN | {"RANK": "4"}, "RANK is 4, but WORLD_SIZE is 4"),
        ({name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}, "MASTER_ADDR is not set"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch_of(environment)


@given(sizes=st.lists(st.integers(1, 1000), max_size=40), processes=st.integers(1, 9))
def test_each_query_is_in_one_share_and_shares_are_equal_to_one(sizes: list[int], processes: int) -> None:
    shares = [Share(rank, processes) for rank in range(processes)]
    order = shares[0].order(sizes)

    parts = [order[share.of(len(sizes))] for share in shares]

    assert sorted(place for part in parts for place in part) == [*range(len(sizes))]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(share.order(sizes) == order for share in shares)


def test_shares_cost_about_the_same() -> None:
    sizes = [900, 100, 120, 880, 500, 480, 300, 720]
    order = Share(0, 2).order(sizes)

    costs = [sum(sizes[place] for place in order[Share(rank, 2).of(8)]) for rank in range(2)]

    assert max(costs) <= 1.02 * min(costs)


def test_one_process_keeps_the_order_of_a_batch() -> None:
    assert Share().order([5, 9, 1]) == [0, 1, 2]
