"""Peak memory of an accelerator, and a limit on it.

How much memory an accelerator has is asked in :mod:`splade_bench.device.devices`. Gradients, the head and a profile
were measured on CUDA (an NVIDIA H100), and full steps of an earlier version. What has not run on such a device is in
:data:`UNTESTED_ON_HARDWARE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from splade_bench.errors import ConfigError
from splade_bench.measure.timeline import MemorySampler
from splade_bench.units import format_bytes

EVERYTHING = "everything"
UNTESTED_ON_HARDWARE: Mapping[str, str] = MappingProxyType(
    {
        "cuda": "full steps beside other libraries, plans of this version, --tf32, and the tests in tests/accelerator",
        "mps": EVERYTHING,
    }
)
"""Kind of device -> what is proved on the CPU only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePeak:
    """Peaks and their source; None if nothing was measured."""

    source: str | None = None
    allocated_bytes: int | None = None
    """Peak of live tensors."""
    reserved_bytes: int | None = None
    """Peak of what the allocator had taken from the system, free blocks included."""


class DeviceMemory:
    """The memory of a device. The CPU's tensors are in the process's own memory: nothing to measure or limit here."""

    def start(self) -> None:
        """Forget earlier peaks."""

    def read(self) -> DevicePeak:
        """The peaks since the start; ends the measurement."""
        return DevicePeak()

    def limit(self, limit_bytes: int) -> None:
        """Fail allocations that would bring this process's memory on the device over ``limit_bytes``.

        Raises:
            ConfigError: the device has less memory.
        """


def device_memory(device_type: str) -> DeviceMemory:
    """The memory of a device of this type: ``cpu``, ``cuda`` or ``mps``."""
    if device_type == "cpu":
        return DeviceMemory()
    import torch

    if device_type == "cuda":
        return CudaMemory(torch.cuda)
    if device_type == "mps":
        return MpsMemory(torch.mps, torch.accelerator)
    raise ConfigError(f"--device {device_type}: cannot measure its memory; choose from cpu, cuda, mps")


class CudaMemory(DeviceMemory):
    """torch's caching allocator for CUDA, which keeps both peaks itself.

    Does not see: the CUDA context and library workspaces outside the allocator, some hundred MiB.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def start(self) -> None:
        self._cuda.reset_peak_memory_stats()

    def read(self) -> DevicePeak:
        return DevicePeak(
            source="torch.cuda allocator",
            allocated_bytes=self._cuda.max_memory_allocated(),
            reserved_bytes=self._cuda.max_memory_reserved(),
        )

    def limit(self, limit_bytes: int) -> None:
        total_bytes = self._cuda.get_device_properties(self._cuda.current_device()).total_memory
        self._cuda.set_per_process_memory_fraction(_fraction(limit_bytes, total_bytes))


class MpsMemory(DeviceMemory):
    """torch's allocator for Apple GPUs.

    ``torch.accelerator`` reports the peaks in recent versions of torch. Earlier versions answer 0 or raise: then two
    threads sample memory every 10 ms, and the source says so.

    Does not see: when sampled, a peak between two samples.
    """

    def __init__(self, mps: Any, accelerator: Any) -> None:
        self._mps = mps
        self._accelerator = accelerator
        self._sampling = ExitStack()

    def start(self) -> None:
        self._sampling.close()
        _or_none(self._accelerator.reset_peak_memory_stats)
        self._allocated = self._sampled(self._mps.current_allocated_memory)
        self._reserved = self._sampled(self._mps.driver_allocated_memory)

    def read(self) -> DevicePeak:
        self._sampling.close()
        allocated_bytes = _or_none(self._accelerator.max_memory_allocated)
        reserved_bytes = _or_none(self._accelerator.max_memory_reserved)
        if allocated_bytes and reserved_bytes:
            return DevicePeak(
                source="torch.accelerator allocator", allocated_bytes=allocated_bytes, reserved_bytes=reserved_bytes
            )
        return DevicePeak(
            source="torch.mps sampled every 10 ms",
            allocated_bytes=self._allocated.peak_bytes,
            reserved_bytes=self._reserved.peak_bytes,
        )

    def limit(self, limit_bytes: int) -> None:
        total_bytes = self._mps.recommended_max_memory()
        self._mps.set_per_process_memory_fraction(_fraction(limit_bytes, total_bytes))

    def _sampled(self, read: Callable[[], int]) -> MemorySampler:
        return self._sampling.enter_context(MemorySampler(read=read))


def _or_none(call: Callable[[], int | None]) -> int | None:
    try:
        return call()
    except RuntimeError:
        return None


def _fraction(limit_bytes: int, total_bytes: int) -> float:
    if limit_bytes > total_bytes:
        raise ConfigError(
            f"--memory-limit {format_bytes(limit_bytes)}: the device has only {format_bytes(total_bytes)}"
        )
    return limit_bytes / total_bytes
