"""Which optimizer steps a clock counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch

from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.step_clock import StepClock

LOSS = StepLoss(**dict.fromkeys((field.name for field in fields(StepLoss)), 0.0))


@pytest.mark.parametrize(
    ("untimed_steps", "ends_s", "times_s"),
    [(1, [5, 7, 8], [2, 1]), (2, [5, 7, 8], [1]), (2, [5, 7], [5, 2]), (1, [5], [5]), (1, [], [])],
)
def test_the_first_steps_are_not_counted_if_there_are_more(
    untimed_steps: int, ends_s: Sequence[float], times_s: Sequence[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter([0.0, *ends_s])
    monkeypatch.setattr("splade_bench.training.step_clock.time.perf_counter", lambda: next(readings))
    clock = StepClock(torch.device("cpu"), untimed_steps=untimed_steps)

    clock.start()
    for _ in ends_s:
        clock.on_step_end(TrainState(max_steps=9), LOSS)

    assert clock.step_times_s() == times_s
