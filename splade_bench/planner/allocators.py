"""What a device's allocator takes from the system for the storages that a step makes and frees.

Each model is told of storages in the order in which a step makes them, and says how much is reserved then. Constants
are the allocators' own, with their place in torch's sources.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Protocol

from splade_bench.device.planned import PlannedAllocator
from splade_bench.planner.blocks import Block, FreeBlocks, join, round_up, split

_MIB = 2**20
# What cuBLAS works in, taken from torch's allocator at the first product and kept: 2 blocks of 4096 KiB and 8 of 16
# (aten/src/ATen/cuda/CublasHandlePool.cpp). Hopper has 32 MiB.
CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
_WORKSPACE = -1  # no storage has this number


class Allocator(PlannedAllocator, Protocol):
    """The habits of one device's allocator."""

    name: str

    def allocate(self, storage: int, size_bytes: int) -> None:
        """Find room for a storage, in what is reserved or in more."""

    def free(self, storage: int) -> None:
        """Take the room of a storage back."""

    @property
    def reserved_bytes(self) -> int:
        """Taken from the system and not given back."""


class CudaCachingAllocator:
    """torch's caching allocator for CUDA with its default settings (c10/cuda/CUDACachingAllocator.cpp).

    Sizes are rounded up to 512 bytes. Up to 1 MiB they come from segments of 2 MiB, up to 10 MiB from segments of
    20 MiB, and above each from a segment of its own, rounded up to 2 MiB, unless a free block fits. What is left of a
    block is split off: from 512 bytes on in small segments, above 1 MiB in large ones. Freed neighbours are joined;
    segments stay reserved.

    Does not see: the CUDA context and what libraries allocate outside torch.
    """

    name = "cuda caching allocator"
    _ROUNDING_BYTES = 512
    _SMALL_BYTES = _MIB
    _SMALL_SEGMENT_BYTES = 2 * _MIB
    _OWN_SEGMENT_FROM_BYTES = 10 * _MIB
    _LARGE_SEGMENT_BYTES = 20 * _MIB
    _SEGMENT_ROUNDING_BYTES = 2 * _MIB

    def __init__(self, *, workspace_bytes: int = CUBLAS_WORKSPACE_BYTES) -> None:
        self._small, self._large = FreeBlocks(), FreeBlocks()
        self._used: dict[int, tuple[FreeBlocks, Block]] = {}
        self._reserved_bytes = 0
        if workspace_bytes:
            self.allocate(_WORKSPACE, workspace_bytes)

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    def allocate(self, storage: int, size_bytes: int) -> None:
        size_bytes = round_up(size_bytes, self._ROUNDING_BYTES)
        is_small = size_bytes <= self._SMALL_BYTES
        pool = self._small if is_small else self._large
        block = pool.take(size_bytes) or self._new_segment(size_bytes)
        left_bytes = block.size_bytes - size_bytes
        if left_bytes >= self._ROUNDING_BYTES if is_small else left_bytes > self._SMALL_BYTES:
            pool.add(split(block, size_bytes))
        self._used[storage] = pool, block

    def free(self, storage: int) -> None:
        pool, block = self._used.pop(storage)
        if block.before and block.before.is_free:
            pool.remove(block.before)
            block = join(block.before, block)
        if block.after and block.after.is_free:
            pool.remove(block.after)
            block = join(block, block.after)
        pool.add(block)

    def trim(self) -> None:
        for pool in (self._small, self._large):
            for block in [block for block in pool if not block.before and not block.after]:
                pool.remove(block)
                self._reserved_bytes -= block.size_bytes

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """Nothing: a habit of the CPU's allocator."""

    def _new_segment(self, size_bytes: int) -> Block:
        if size_bytes <= self._SMALL_BYTES:
            segment_bytes = self._SMALL_SEGMENT_BYTES
        elif size_bytes < self._OWN_SEGMENT_FROM_BYTES:
            segment_bytes = self._LARGE_SEGMENT_BYTES
        else:
            segment_bytes = round_up(size_bytes, self._SEGMENT_ROUNDING_BYTES)
        self._reserved_bytes += segment_bytes
        return Block(segment_bytes)


@dataclass(slots=True, eq=False)
class _Heap:
    """A Metal heap; how much of it is in no buffer."""

    size_bytes: int
    available_bytes: int
    buffers: int = 0


@dataclass(slots=True, eq=False)
class _Buffer:
    size_bytes: int
    heap: _Heap


@dataclass(slots=True)
class _HeapPool:
    heaps: list[_Heap] = field(default_factory=list)
    available: list[tuple[int, int, _Buffer]] = field(default_factory=list)
    freed: int = 0


class MpsHeapAllocator:
    """torch's allocator for MPS (aten/src/ATen/mps/MPSAllocator.h and .mm).

    Buffers lie in Metal heaps: of 8 MiB for up to 1 MiB, of 32 MiB below 10 MiB, of 1 GiB below 512 MiB, and above, or
    once the soft limit is reached, each in one of its own, rounded up to 2 MiB. A freed buffer is kept and given to
    the next request that is at most 32 MiB smaller.

    Heaps are taken to be without fragmentation, and buffers to be aligned to pages of 16 KiB, of which there is no
    documentation. Does not see: what MPSGraph allocates for itself.

    Args:
        low_watermark_bytes: 1.4 times what Metal recommends for a working set.
    """

    name = "mps heap allocator"
    _ALIGNMENT_BYTES = 2**14
    _SMALL_BYTES = _MIB
    _SMALL_HEAP_BYTES = 8 * _MIB
    _LARGE_FROM_BYTES = 10 * _MIB
    _LARGE_HEAP_BYTES = 32 * _MIB
    _EXTRA_LARGE_HEAP_BYTES = 1024 * _MIB
    _HEAP_ROUNDING_BYTES = 2 * _MIB

    def __init__(self, *, low_watermark_bytes: float = float("inf")) -> None:
        self._low_watermark_bytes = low_watermark_bytes
        self._small, self._large = _HeapPool(), _HeapPool()
        self._used: dict[int, tuple[_HeapPool, _Buffer]] = {}
        self._reserved_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    def allocate(self, storage: int, size_bytes: int) -> None:
        size_bytes = round_up(size_bytes, self._ALIGNMENT_BYTES)
        pool = self._small if size_bytes <= self._SMALL_BYTES else self._large
        self._used[storage] = pool, self._kept_buffer(pool, size_bytes) or self._new_buffer(pool, size_bytes)

    def free(self, storage: int) -> None:
        pool, buffer = self._used.pop(storage)
        pool.freed += 1
        insort(pool.available, (buffer.size_bytes, pool.freed, buffer))

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """Nothing: a habit of the CPU's allocator."""

    def trim(self) -> None:
        for pool in (self._small, self._large):
            for _, _, buffer in pool.available:
                self._release(pool, buffer, keep_heap=False)
            pool.available.clear()

    def _kept_buffer(self, pool: _HeapPool, size_bytes: int) -> _Buffer | None:
        place = bisect_left(pool.available, (size_bytes, 0))
        if place == len(pool.available):
            return None
        buffer = pool.available[place][2]
        if buffer.size_bytes <= size_bytes + self._LARGE_HEAP_BYTES:
            del pool.available[place]
            return buffer
        if not any(heap.available_bytes >= size_bytes for heap in pool.heaps):
            del pool.available[place]
            self._release(pool, buffer, keep_heap=True)
        return None

    def _new_buffer(self, pool: _HeapPool, size_bytes: int) -> _Buffer:
        with_room = [heap for heap in pool.heaps if heap.available_bytes >= size_bytes]
        heap = min(with_room, key=lambda heap: heap.available_bytes) if with_room else self._new_heap(pool, size_bytes)
        heap.available_bytes -= size_bytes
        heap.buffers += 1
        return _Buffer(size_bytes, heap)

    def _new_heap(self, pool: _HeapPool, size_bytes: int) -> _Heap:
        pressed = self._reserved_bytes >= self._low_watermark_bytes
        if size_bytes <= self._SMALL_BYTES:
            heap_bytes = self._SMALL_HEAP_BYTES
        elif size_bytes < self._LARGE_FROM_BYTES:
            heap_bytes = self._LARGE_HEAP_BYTES
        elif size_bytes < self._EXTRA_LARGE_HEAP_BYTES // 2 and not pressed:
            heap_bytes = self._EXTRA_LARGE_HEAP_BYTES
        else:
            heap_bytes = round_up(size_bytes, self._HEAP_ROUNDING_BYTES)
        heap = _Heap(heap_bytes, heap_bytes)
        pool.heaps.append(heap)
        self._reserved_bytes += heap_bytes
        return heap

    def _release(self, pool: _HeapPool, buffer: _Buffer, *, keep_heap: bool) -> None:
        heap = buffer.heap
        heap.available_bytes += buffer.size_bytes
        heap.buffers -= 1
        if not heap.buffers and not keep_heap:
            pool.heaps.remove(heap)
            self._reserved_bytes -= heap.size_bytes


class LiveAllocator:
    """No habits at all: what lives is what is reserved. For systems whose allocator nobody has modelled."""

    name = "live bytes"

    def __init__(self) -> None:
        self._sizes_bytes: dict[int, int] = {}
        self._reserved_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    def allocate(self, storage: int, size_bytes: int) -> None:
        self._sizes_bytes[storage] = size_bytes
        self._reserved_bytes += size_bytes

    def free(self, storage: int) -> None:
        self._reserved_bytes -= self._sizes_bytes.pop(storage)

    def trim(self) -> None:
        pass

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        pass
