"""The models of allocators, against what is documented of each."""

from __future__ import annotations

import random

import pytest

from splade_bench.planner.allocators import Allocator, CudaCachingAllocator, LiveAllocator, MpsHeapAllocator
from splade_bench.planner.glibc import GlibcAllocator

KIB, MIB = 2**10, 2**20
ALLOCATORS = (GlibcAllocator, CudaCachingAllocator, MpsHeapAllocator, LiveAllocator)


@pytest.mark.parametrize("make", ALLOCATORS)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_reserved_is_never_less_than_what_is_used(make: type[Allocator], seed: int) -> None:
    rng = random.Random(seed)
    allocator = make()
    used: dict[int, int] = {}
    for storage in range(600):
        size_bytes = int(2 ** rng.uniform(4, 24))
        allocator.allocate(storage, size_bytes)
        used[storage] = size_bytes
        while used and rng.random() < 0.5:
            gone = rng.choice([*used])
            allocator.free(gone)
            del used[gone]
        if rng.random() < 0.05:
            allocator.trim()
        assert allocator.reserved_bytes >= sum(used.values())
    for storage in used:
        allocator.free(storage)
    allocator.trim()

    assert allocator.reserved_bytes <= 64 * MIB  # the workspaces of a library; a hole's last page


def cuda_reserved_bytes(*sizes_bytes: int) -> int:
    allocator = CudaCachingAllocator(workspace_bytes=0)
    for storage, size_bytes in enumerate(sizes_bytes):
        allocator.allocate(storage, size_bytes)
    return allocator.reserved_bytes


@pytest.mark.parametrize(
    ("sizes_bytes", "reserved_bytes"),
    [
        ([1], 2 * MIB),
        ([512] * 4096, 2 * MIB),
        ([512] * 4097, 4 * MIB),
        ([MIB], 2 * MIB),
        ([MIB + 1], 20 * MIB),
        ([9 * MIB, 9 * MIB], 20 * MIB),
        ([9 * MIB, 9 * MIB, 9 * MIB], 40 * MIB),
        ([10 * MIB], 10 * MIB),
        ([11 * MIB + 1], 12 * MIB),
    ],
)
def test_segments_of_the_cuda_allocator(sizes_bytes: list[int], reserved_bytes: int) -> None:
    """Sizes and segments as c10/cuda/CUDACachingAllocator.cpp documents them."""
    assert cuda_reserved_bytes(*sizes_bytes) == reserved_bytes


def test_the_cuda_allocator_uses_a_freed_segment_again_and_keeps_it() -> None:
    allocator = CudaCachingAllocator(workspace_bytes=0)
    allocator.allocate(1, 64 * MIB)
    allocator.free(1)
    assert allocator.reserved_bytes == 64 * MIB

    allocator.allocate(2, 40 * MIB)
    allocator.allocate(3, 24 * MIB)  # what was left of it
    assert allocator.reserved_bytes == 64 * MIB

    allocator.free(2)
    allocator.free(3)  # joined again
    allocator.allocate(4, 64 * MIB)
    assert allocator.reserved_bytes == 64 * MIB
    allocator.free(4)
    allocator.trim()
    assert allocator.reserved_bytes == 0


@pytest.mark.parametrize(
    ("sizes_bytes", "reserved_bytes"),
    [
        ([MIB], 8 * MIB),
        ([MIB] * 9, 16 * MIB),
        ([2 * MIB], 32 * MIB),
        ([10 * MIB], 1024 * MIB),
        ([500 * MIB, 500 * MIB], 1024 * MIB),
        ([512 * MIB + 1], 514 * MIB),
    ],
)
def test_heaps_of_the_mps_allocator(sizes_bytes: list[int], reserved_bytes: int) -> None:
    """Tiers as aten/src/ATen/mps/MPSAllocator.h documents them."""
    allocator = MpsHeapAllocator()
    for storage, size_bytes in enumerate(sizes_bytes):
        allocator.allocate(storage, size_bytes)
    assert allocator.reserved_bytes == reserved_bytes


def test_the_mps_allocator_keeps_freed_buffers_by_size() -> None:
    allocator = MpsHeapAllocator(low_watermark_bytes=0)  # each large buffer in a heap of its own
    allocator.allocate(1, 100 * MIB)
    allocator.free(1)
    assert allocator.reserved_bytes == 100 * MIB

    allocator.allocate(2, 70 * MIB)  # within 32 MiB of the kept one
    assert allocator.reserved_bytes == 100 * MIB
    allocator.free(2)
    allocator.allocate(3, 20 * MIB)  # too far: the buffer is released and its heap used
    allocator.allocate(4, 60 * MIB)
    assert allocator.reserved_bytes == 100 * MIB


def test_glibc_maps_large_requests_and_returns_them_at_once() -> None:
    allocator = GlibcAllocator()
    allocator.fix_mmap_threshold(4 * MIB)
    allocator.allocate(1, 8 * MIB)
    assert 8 * MIB < allocator.reserved_bytes <= 8 * MIB + 8 * KIB

    allocator.free(1)
    assert allocator.reserved_bytes == 0
    allocator.allocate(2, 8 * MIB)
    assert allocator.reserved_bytes > 8 * MIB  # a fixed threshold does not rise


def test_glibc_moves_large_requests_to_the_heap_once_one_was_freed() -> None:
    allocator = GlibcAllocator()
    allocator.allocate(1, 8 * MIB)
    allocator.free(1)
    for storage in (2, 3):
        allocator.allocate(storage, 8 * MIB)
    allocator.free(2)  # a hole before the one that is still there

    assert allocator.reserved_bytes >= 16 * MIB
    allocator.allocate(4, 7 * MIB)  # in the hole
    assert allocator.reserved_bytes <= 16 * MIB + 256 * KIB


def test_glibc_does_not_fill_a_hole_of_just_the_size_with_an_aligned_request() -> None:
    allocator = GlibcAllocator()
    for storage in range(3):
        allocator.allocate(storage, 64 * KIB)
    allocator.free(1)
    allocator.allocate(3, 64 * KIB)

    assert allocator.reserved_bytes >= 4 * 64 * KIB


def test_a_small_object_keeps_a_heap_from_ending_earlier_until_more_has_come() -> None:
    allocator = GlibcAllocator()
    allocator.fix_mmap_threshold(4 * MIB)
    for storage in (0, 1):
        allocator.allocate(storage, 2 * MIB)

    for storage in (1, 0):
        allocator.free(storage)
    assert allocator.reserved_bytes >= 4 * MIB  # what lay behind them outlives them

    for storage in range(2, 60):
        allocator.allocate(storage, KIB)
        allocator.free(storage)
    assert allocator.reserved_bytes <= 3 * MIB


def test_trimming_glibc_returns_holes_and_the_end() -> None:
    allocator = GlibcAllocator()
    for storage in range(100):
        allocator.allocate(storage, 100 * KIB)
    for storage in range(0, 100, 2):
        allocator.free(storage)
    assert allocator.reserved_bytes >= 100 * 100 * KIB

    allocator.trim()

    assert 50 * 100 * KIB <= allocator.reserved_bytes <= 50 * 105 * KIB
