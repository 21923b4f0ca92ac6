"""Which device a run gets, and what to ask of it."""

from __future__ import annotations

import logging

import torch

from splade_bench.config import DeviceName, MemoryConfig
from splade_bench.device.planned import planned_device
from splade_bench.errors import ConfigError

logger = logging.getLogger(__name__)

# MPS keeps freed memory by size: with a width for every length its cache would grow for as long as training runs.
_MPS_PAD_TO_MULTIPLE_OF = 32
# torch refuses what would bring MPS over so many times what Metal recommends for a working set
# (aten/src/ATen/mps/MPSAllocator.h, default_high_watermark_ratio).
MPS_HIGH_WATERMARK_RATIO = 1.7


def available_devices() -> list[DeviceName]:
    """The devices of this machine, in the order in which ``auto`` takes them."""
    found: list[DeviceName] = []
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return [*found, "cpu"]


def resolve_device(name: DeviceName, *, force: bool = False) -> torch.device:
    """The device called ``name``, or the best one there is.

    Raises:
        ConfigError: the device is missing and ``force`` forbids another.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    if name in available:
        return torch.device(name)
    if force:
        raise ConfigError(f"--device {name} --force-device: this machine has {', '.join(available)} only")
    logger.warning("--device %s is not available here: training on %s instead", name, available[0])
    return torch.device(available[0])


def memory_limit_bytes(name: DeviceName) -> int | None:
    """What an allocator of this accelerator may take at most; None where it is not here."""
    if name not in available_devices():
        return None
    if name == "mps":
        return int(MPS_HIGH_WATERMARK_RATIO * torch.mps.recommended_max_memory())
    free_bytes, _ = torch.cuda.mem_get_info()
    return free_bytes


def device_type(device: torch.device) -> str:
    """Which paths computations on ``device`` take: those of its type, or of the device that is planned for."""
    planned = planned_device()
    return planned.type if planned else device.type


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked, so that a clock may be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Give memory that the device's allocator keeps for later back to the system."""
    planned = planned_device()
    if planned and planned.type != "cpu":
        planned.allocator.trim()
    elif device.type != "cpu":
        torch.get_device_module(device).empty_cache()  # torch.accelerator's fails for MPS before torch 2.13


def pad_to_multiple_of(memory: MemoryConfig, device: torch.device) -> int:
    """What widths of batches are rounded up to a multiple of: as configured, or as suits the device's allocator."""
    return memory.pad_to_multiple_of or (_MPS_PAD_TO_MULTIPLE_OF if device_type(device) == "mps" else 1)
