"""The callback for any Trainer of transformers: what it adds to the logs and writes. It needs transformers only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splade_bench.hugging_face.callback import MemoryCallback
from splade_bench.measure.device import DeviceMemory, DevicePeak


def run(callback: MemoryCallback, steps: int, *, main_process: bool = True) -> Any:
    """The calls of a Trainer that logs every second step; its state."""
    args = SimpleNamespace(device=torch.device("cpu"))
    state = SimpleNamespace(global_step=0, log_history=[], is_world_process_zero=main_process)
    callback.on_train_begin(args, state, None)
    for step in range(1, steps + 1):
        callback.on_step_begin(args, state, None)
        state.global_step = step
        callback.on_step_end(args, state, None)
        if step % 2 == 0:
            logs = {"loss": 1.0}
            state.log_history.append({**logs, "step": step})
            callback.on_log(args, state, None, logs=logs)
            assert logs.items() <= state.log_history[-1].items()
    callback.on_train_end(args, state, None)
    return state


def test_each_log_has_the_peak_and_the_time_of_a_step() -> None:
    state = run(MemoryCallback(), 4)

    assert [entry["step"] for entry in state.log_history] == [2, 4]
    for entry in state.log_history:
        assert entry["loss"] == 1.0
        assert entry["peak_rss_bytes"] >= entry["baseline_rss_bytes"] > 2**20
        assert entry["step_time_s"] >= 0
        assert "device_peak_allocated_bytes" not in entry


def test_the_file_has_all_steps(tmp_path: Path) -> None:
    run(MemoryCallback(tmp_path / "new" / "memory.json"), 5)

    record = json.loads((tmp_path / "new" / "memory.json").read_text())
    assert record["optimizer_steps"] == len(record["step_times_s"]) == 5
    assert record["peak_rss_bytes"] >= record["baseline_rss_bytes"]
    assert record["wall_time_s"] >= sum(record["step_times_s"])
    assert record["peak_rss_source"]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    run(MemoryCallback(tmp_path / "memory.json"), 1, main_process=False)

    assert not [*tmp_path.iterdir()]


def test_a_peak_before_the_last_log_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator's peak is read, and reset, at each log."""

    class Sinking(DeviceMemory):
        peaks_bytes = iter((500, 300, 200))

        def read(self) -> DevicePeak:
            peak_bytes = next(self.peaks_bytes)
            return DevicePeak(source="allocator", allocated_bytes=peak_bytes, reserved_bytes=2 * peak_bytes)

    monkeypatch.setattr("splade_bench.hugging_face.callback.device_memory", lambda kind: Sinking())

    state = run(MemoryCallback(tmp_path / "memory.json"), 4)

    assert [entry["device_peak_allocated_bytes"] for entry in state.log_history] == [500, 500]
    record = json.loads((tmp_path / "memory.json").read_text())
    assert record["device_peak_reserved_bytes"] == 1000
    assert record["device_peak_source"] == "allocator"


def test_a_losss_active_dims_are_recorded() -> None:
    loss = SimpleNamespace(query_active_dims=12.5, document_active_dims=80.0)

    state = run(MemoryCallback(loss=loss), 2)

    assert state.log_history[0]["query_active_dims"] == 12.5
    assert state.log_history[0]["document_active_dims"] == 80.0
