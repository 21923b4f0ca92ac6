"""The device of a run: which one it gets, what kind it is, and what applies there."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from splade_bench.config import DeviceName
from splade_bench.device.mps import watermarks
from splade_bench.device.planned import planned_device
from splade_bench.errors import ConfigError
from splade_bench.measure.machine import total_memory_bytes
from splade_bench.memory_modes import MemoryConfig

logger = logging.getLogger(__name__)

# MPS caches freed memory by size: with as many widths as lengths, its cache would grow as long as training runs.
_MPS_PAD_TO_MULTIPLE_OF = 32


def available_devices() -> list[DeviceName]:
    """The devices of this machine, in the order in which ``auto`` takes them."""
    available: dict[DeviceName, bool] = {
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "cpu": True,
    }
    return [name for name, is_available in available.items() if is_available]


def resolve_device(name: DeviceName, *, force: bool = False) -> torch.device:
    """The device called ``name``, or the best available one.

    Raises:
        ConfigError: the device is missing and ``force`` is set.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    if name in available:
        return torch.device(name)
    if force:
        raise ConfigError(f"--device {name} --force-device: this machine has {', '.join(available)} only")
    logger.warning("--device %s is not available here: using %s instead", name, available[0])
    return torch.device(available[0])


def memory_limit_bytes(name: str) -> int | None:
    """Most bytes that this accelerator's allocator can take; None if this machine does not have the device."""
    if name not in available_devices():
        return None
    if name == "mps":
        # By default torch's limit is above the memory of the machine, which would begin to swap.
        limit_bytes = watermarks(torch.mps.recommended_max_memory())["high_watermark_bytes"]
        memory_bytes = total_memory_bytes()
        return memory_bytes if limit_bytes is None else min(limit_bytes, memory_bytes)
    free_bytes, _ = torch.cuda.mem_get_info()
    return free_bytes


def device_type(device: torch.device) -> str:
    """The kind of device whose paths a step takes: that of ``device``, or the one that a plan is made for.

    A step decides by this, never by ``device.type``, which in a plan is always ``cpu``. ``device.type`` is for calls
    that need the place of a real tensor: autocast, random generators, clocks.
    """
    planned = planned_device()
    return planned.type if planned else device.type


def memory_on(device: torch.device, memory: MemoryConfig) -> MemoryConfig:
    """``memory`` as it applies on ``device``: MPS gets its multiple for widths, and only the CPU trims the heap."""
    kind = device_type(device)
    multiple = memory.pad_to_multiple_of or (_MPS_PAD_TO_MULTIPLE_OF if kind == "mps" else None)
    return replace(memory, pad_to_multiple_of=multiple, trim_heap=memory.trim_heap and kind == "cpu")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a clock can be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Give unused memory that the device's allocator keeps back to the system."""
    planned = planned_device()
    if planned and planned.type != "cpu":
        planned.allocator.trim()
    elif device.type != "cpu":
        torch.get_device_module(device).empty_cache()  # torch.accelerator's fails for MPS before torch 2.13
