"""Each kind of device: its allocator, and the memory that libraries take beside it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch

from splade_bench.device.mps import high_watermark_ratio, low_watermark_ratio
from splade_bench.planner.allocators import (
    CUBLAS_HOPPER_WORKSPACE_BYTES,
    CUBLAS_WORKSPACE_BYTES,
    Allocator,
    CudaCachingAllocator,
    LiveAllocator,
    MpsHeapAllocator,
)
from splade_bench.planner.glibc import GlibcAllocator

# After a product MKL keeps memory for packed operands. It grows with the square root of the product's right matrix, up
# to a bound. With two threads (torch 2.13, AVX2): 0.6 MiB for a matrix of 0.25 MiB, 2.1 for 1.5, 2.6 for 2.25, 5.1 for
# 9, 6.5 for 15 and 9.8 for 45 or 89; the number of rows makes no difference.
_PACKED_BYTES_PER_ROOT_BY_THREAD = 870
_MAX_PACKED_BYTES_BY_THREAD = 5 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceModel:
    """A kind of device with a new allocator."""

    type: str
    allocator: Allocator
    packing_threads: int = 0
    """Threads for which a library keeps packed operands of products."""
    calibrated: bool = False
    """Whether plans were compared with measurements on such a device."""

    @property
    def is_accelerator(self) -> bool:
        """Then its memory has no runtime of the process, and its allocator returns unused memory before it fails."""
        return self.type != "cpu"

    def workspace_bytes(self, largest_operand_bytes: int) -> int:
        """Memory that libraries keep after a product with a right matrix of this size."""
        packed_bytes = _PACKED_BYTES_PER_ROOT_BY_THREAD * largest_operand_bytes**0.5
        return self.packing_threads * int(min(packed_bytes, _MAX_PACKED_BYTES_BY_THREAD))


def device_model(device_type: str, *, threads: int, budget_bytes: int | None = None) -> DeviceModel:
    """The model of a device, which need not be in this machine.

    A CPU's depends on its ``threads``; that of MPS on the budget, its hard limit, because the soft limit is a share,
    by the environment's watermarks.
    """
    if device_type == "cuda":
        # Of this machine's device; without one, the larger.
        is_older = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] not in (9, 10)
        workspace_bytes = CUBLAS_WORKSPACE_BYTES if is_older else CUBLAS_HOPPER_WORKSPACE_BYTES
        return DeviceModel(
            type="cuda",
            allocator=CudaCachingAllocator(workspace_bytes=workspace_bytes),
            calibrated=True,
        )
    if device_type == "mps":
        return DeviceModel(type="mps", allocator=MpsHeapAllocator(low_watermark_bytes=_low_watermark(budget_bytes)))
    is_glibc = sys.platform == "linux"
    return DeviceModel(
        type="cpu",
        allocator=GlibcAllocator() if is_glibc else LiveAllocator(),
        packing_threads=threads,
        calibrated=is_glibc,
    )


def _low_watermark(budget_bytes: int | None) -> float:
    """The soft limit of MPS below a budget: the same share of it as of the hard limit."""
    high, low = high_watermark_ratio(), low_watermark_ratio()
    if budget_bytes is None or not high or not low:
        return math.inf
    return budget_bytes * low / high
