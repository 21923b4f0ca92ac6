"""CUDA and MPS code driven through a double that refuses every call which torch's own functions would refuse."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from splade_bench.errors import ConfigError
from splade_bench.measure.device import CudaMemory, DeviceMemory, DevicePeak, MpsMemory, device_memory

GIB = 2**30


@dataclass
class Recording:
    """Stands for one of torch's modules: checks each call against the real function, and writes it down."""

    module: Any
    answers: dict[str, Any]
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.module, name)  # a function that torch does not have is an AttributeError

        def call(*args: Any) -> Any:
            inspect.signature(real).bind(*args)
            self.calls.append((name, args))
            return self.answers.get(name)

        return call


@dataclass
class Properties:
    total_memory: int


@pytest.fixture
def cuda() -> Recording:
    return Recording(
        torch.cuda,
        {
            "max_memory_allocated": 3 * GIB,
            "max_memory_reserved": 4 * GIB,
            "current_device": 0,
            "get_device_properties": Properties(total_memory=8 * GIB),
        },
    )


@pytest.fixture
def mps() -> Recording:
    return Recording(
        torch.mps,
        {"current_allocated_memory": 1 * GIB, "driver_allocated_memory": 2 * GIB, "recommended_max_memory": 10 * GIB},
    )


def test_cuda_peaks_are_those_of_its_allocator_since_the_start(cuda: Recording) -> None:
    memory = CudaMemory(cuda)
    memory.start()

    peak = memory.read()

    assert peak == DevicePeak(source="torch.cuda allocator", allocated_bytes=3 * GIB, reserved_bytes=4 * GIB)
    assert cuda.calls[0][0] == "reset_peak_memory_stats"


def test_a_limit_on_cuda_is_a_share_of_the_device(cuda: Recording) -> None:
    CudaMemory(cuda).limit(2 * GIB)

    assert cuda.calls[-1] == ("set_per_process_memory_fraction", (0.25,))


def test_mps_peaks_come_from_the_allocator_where_it_keeps_them(mps: Recording) -> None:
    accelerator = Recording(torch.accelerator, {"max_memory_allocated": 5 * GIB, "max_memory_reserved": 6 * GIB})
    memory = MpsMemory(mps, accelerator)
    memory.start()

    peak = memory.read()

    assert (peak.allocated_bytes, peak.reserved_bytes) == (5 * GIB, 6 * GIB)
    assert peak.source == "torch.accelerator allocator"
    assert accelerator.calls[0][0] == "reset_peak_memory_stats"


def test_mps_peaks_are_sampled_where_the_allocator_answers_zero(mps: Recording) -> None:
    memory = MpsMemory(mps, Recording(torch.accelerator, {"max_memory_allocated": 0, "max_memory_reserved": 0}))
    memory.start()

    peak = memory.read()

    assert (peak.allocated_bytes, peak.reserved_bytes) == (1 * GIB, 2 * GIB)
    assert peak.source == "torch.mps sampled every 10 ms"


def test_a_limit_on_mps_is_a_share_of_its_recommended_working_set(mps: Recording) -> None:
    MpsMemory(mps, Recording(torch.accelerator, {})).limit(5 * GIB)

    assert mps.calls[-1] == ("set_per_process_memory_fraction", (0.5,))


def test_a_limit_above_the_device_is_refused(cuda: Recording) -> None:
    with pytest.raises(ConfigError, match=r"--memory-limit 9216 MiB: the device has only 8192 MiB"):
        CudaMemory(cuda).limit(9 * GIB)


def test_a_processor_has_no_device_memory() -> None:
    memory = device_memory("cpu")
    memory.start()
    memory.limit(1)

    assert type(memory) is DeviceMemory
    assert memory.read() == DevicePeak(source=None, allocated_bytes=None, reserved_bytes=None)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="--device xpu"):
        device_memory("xpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_known_tensor_is_read_back_on_cuda() -> None:
    memory = device_memory("cuda")
    memory.start()
    before = torch.cuda.memory_allocated()
    torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda")  # freed at once: it still counts

    peak = memory.read()

    assert peak.allocated_bytes is not None
    assert peak.allocated_bytes - before == 64 * 2**20


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")
def test_a_known_tensor_is_read_back_on_mps() -> None:
    memory = device_memory("mps")
    memory.start()
    block = torch.ones(64 * 2**20, dtype=torch.uint8, device="mps")
    torch.mps.synchronize()

    peak = memory.read()

    assert peak.allocated_bytes is not None
    assert peak.allocated_bytes >= block.nbytes
