"""What the instruments themselves cost."""

from __future__ import annotations

import time

import pytest

from splade_bench.measure.timeline import MemorySampler


def test_the_memory_sampler_takes_at_most_one_percent(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke runs on machines that are busy with other things: it judges no times")
    with MemorySampler() as sampler:
        end_s = time.perf_counter() + 2.0
        while time.perf_counter() < end_s:  # a busy interpreter, as in training
            sum(range(10_000))

    assert sampler.cpu_time_s <= 0.01 * sampler.wall_time_s
