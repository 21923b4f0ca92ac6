"""What a person sees of a cell that runs."""

from __future__ import annotations

import time

import pytest

from splade_bench.bench.progress import CellProgress, Progress


def test_a_line_says_the_step_the_loss_the_memory_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress | None] = []
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    progress = CellProgress("tiny-cpu-b8-a1-standard", seen.append)

    progress.show("starts")
    now_s += 50  # the start is not part of the training
    progress.start_training()
    now_s += 6
    progress.on_step({"step": 3, "steps": 12, "loss": 2.5, "rss_bytes": 512 * 2**20})
    progress.on_step({"step": 12, "steps": 12, "loss": None, "rss_bytes": None})
    progress.show("heap pass")

    assert [shown.line for shown in seen if shown] == [
        "tiny-cpu-b8-a1-standard  starts",
        "tiny-cpu-b8-a1-standard  trains",
        "tiny-cpu-b8-a1-standard  step 3 of 12  loss 2.500  memory 512 MiB  18.0 s left",
        "tiny-cpu-b8-a1-standard  step 12 of 12  0.0 s left",
        "tiny-cpu-b8-a1-standard  heap pass",
    ]
