"""What is known of each kind of device: its allocator, and what is taken beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from splade_bench.devices import MPS_HIGH_WATERMARK_RATIO
from splade_bench.planner.allocators import Allocator, CudaCachingAllocator, LiveAllocator, MpsHeapAllocator
from splade_bench.planner.glibc import GlibcAllocator

# What MKL keeps for its packed operands, by thread, once products of a BERT-base's size have run: 2.6 MiB after
# 256 x 384 x 1536 and 12.6 after 512 x 768 x 3072 with two threads (torch 2.13, AVX2).
_PRODUCT_WORKSPACE_BYTES = 6 * 2**20
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
    workspace_bytes: int = 0
    calibrated: bool = False


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
        workspace_bytes=threads * _PRODUCT_WORKSPACE_BYTES,
        calibrated=is_glibc,
    )
