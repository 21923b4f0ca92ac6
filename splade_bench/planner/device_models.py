"""What is known of each kind of device: its allocator, and what is taken beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from splade_bench.device.devices import MPS_HIGH_WATERMARK_RATIO
from splade_bench.planner.allocators import Allocator, CudaCachingAllocator, LiveAllocator, MpsHeapAllocator
from splade_bench.planner.glibc import GlibcAllocator

# What MKL keeps for packed operands once a product has run grows with the square root of its right matrix, up to a
# bound. With two threads (torch 2.13, AVX2): 0.6 MiB for a matrix of 0.25 MiB, 2.1 for 1.5, 2.6 for 2.25, 5.1 for 9,
# 6.5 for 15 and 9.8 for 45 or 89; the number of rows makes no difference.
_PACKED_BYTES_PER_ROOT_BY_THREAD = 870
_MAX_PACKED_BYTES_BY_THREAD = 5 * 2**20
# From so many times Metal's recommended working set on MPS is careful (aten/src/ATen/mps/MPSAllocator.h,
# default_low_watermark_ratio).
_MPS_LOW_WATERMARK_RATIO = 1.4


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceModel:
    """A kind of device, with an allocator to which nothing has happened yet."""

    type: str
    allocator: Allocator
    counts_runtime: bool
    """Whether what is limited there holds the process's runtime too."""
    releases_cache: bool
    """Whether its allocator gives back what it keeps for later before it gives up."""
    packing_threads: int = 0
    """Those for which a library keeps the packed operands of products."""
    calibrated: bool = False

    def workspace_bytes(self, largest_operand_bytes: int) -> int:
        """What libraries keep for themselves once a product with a right matrix of this size has run."""
        packed_bytes = _PACKED_BYTES_PER_ROOT_BY_THREAD * largest_operand_bytes**0.5
        return self.packing_threads * int(min(packed_bytes, _MAX_PACKED_BYTES_BY_THREAD))


def device_model(device_type: str, *, threads: int, budget_bytes: int | None = None) -> DeviceModel:
    """The model of a device that need not be there.

    A CPU's depends on its ``threads``, that of MPS on the budget, of which the limit for being careful is a share.
    """
    if device_type == "cuda":
        return DeviceModel(type="cuda", allocator=CudaCachingAllocator(), counts_runtime=False, releases_cache=True)
    if device_type == "mps":
        low_watermark_bytes = (budget_bytes or float("inf")) * _MPS_LOW_WATERMARK_RATIO / MPS_HIGH_WATERMARK_RATIO
        allocator = MpsHeapAllocator(low_watermark_bytes=low_watermark_bytes)
        return DeviceModel(type="mps", allocator=allocator, counts_runtime=False, releases_cache=True)
    is_glibc = sys.platform == "linux"
    return DeviceModel(
        type="cpu",
        allocator=GlibcAllocator() if is_glibc else LiveAllocator(),
        counts_runtime=True,
        releases_cache=False,
        packing_threads=threads,
        calibrated=is_glibc,
    )
