"""Which device a run gets, and which memory settings apply on it."""

from __future__ import annotations

import logging

import pytest
import torch

from splade_bench.device import devices
from splade_bench.device.devices import memory_on, resolve_device
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cpu"])


def test_auto_takes_the_first_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["mps", "cpu"])

    assert resolve_device("auto") == torch.device("mps")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("only_cpu")
def test_a_missing_device_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert resolve_device("cuda") == torch.device("cpu")

    assert "--device cuda is not available" in caplog.text


@pytest.mark.usefixtures("only_cpu")
def test_a_forced_missing_device_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--device mps --force-device: this machine has cpu only"):
        resolve_device("mps", force=True)


@pytest.mark.parametrize(
    ("recommended_bytes", "high", "expected_bytes"),
    [(10, None, 17), (100, None, 100), (10, "1.0", 10), (10, "0.0", 100)],
)
def test_the_limit_of_mps_is_torchs_but_at_most_the_machines_memory(
    recommended_bytes: int, high: str | None, expected_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["mps", "cpu"])
    monkeypatch.setattr(devices, "total_memory_bytes", lambda: 100)
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: recommended_bytes)
    if high is None:
        monkeypatch.delenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", raising=False)
    else:
        monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", high)

    assert devices.memory_limit_bytes("mps") == expected_bytes


@pytest.mark.parametrize(
    ("device", "configured", "expected"), [("mps", None, 32), ("mps", 8, 8), ("cpu", None, None), ("cpu", 8, 8)]
)
def test_widths_are_rounded_up_where_the_allocator_caches_by_size(
    device: str, configured: int | None, expected: int | None
) -> None:
    memory = memory_on(torch.device(device), MemoryConfig(pad_to_multiple_of=configured))

    assert memory.pad_to_multiple_of == expected


@pytest.mark.parametrize(("device", "trims"), [("cpu", True), ("mps", False), ("cuda", False)])
def test_the_heap_is_trimmed_for_the_cpu_only(device: str, trims: bool) -> None:
    assert memory_on(torch.device(device), MemoryConfig(trim_heap=True)).trim_heap == trims
    assert not memory_on(torch.device(device), MemoryConfig(trim_heap=False)).trim_heap
