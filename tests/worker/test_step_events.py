"""The parent is told about a training's steps, but not about each of many short ones."""

from __future__ import annotations

import math
import time
from dataclasses import fields
from typing import Any

import pytest

from splade_bench.training.state import StepLoss, TrainState
from splade_bench.worker.step_events import StepEvents

LOSS = StepLoss(**{term.name: math.nan for term in fields(StepLoss)} | {"total": 1.5})


def test_the_first_step_is_sent_at_once_and_later_ones_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    now_s = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    events = StepEvents(lambda name, values: sent.append((name, values)))
    state = TrainState(max_steps=40)

    for step in range(1, 41):
        state.global_step = step
        events.on_step_end(state, LOSS)
        now_s += 0.125

    assert {name for name, _ in sent} == {"progress"}
    assert [values["step"] for _, values in sent] == [*range(1, 41, 4)]
    assert all((values["steps"], values["loss"]) == (40, 1.5) for _, values in sent)
    assert all(values["rss_bytes"] > 10 * 2**20 for _, values in sent)
