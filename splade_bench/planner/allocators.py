"""Models of devices' allocators: the memory that they take from the system for the storages of a step.

A model is told of storages in the order of the step, and knows how much is reserved after each. Constants are the
allocators' own, with their place in torch's sources.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from splade_bench.device.planned import PlannedAllocator
from splade_bench.planner.blocks import Block, FreeBlocks, round_up, split

_MIB = 2**20
# cuBLAS's workspace, which it takes from torch's allocator at a thread's first product and keeps: 2 blocks of 4096 KiB
# and 8 of 16 KiB, but 32 MiB on Hopper and Blackwell (aten/src/ATen/cuda/CublasHandlePool.cpp).
CUBLAS_WORKSPACE_BYTES = (2 * 4096 + 8 * 16) * 1024
CUBLAS_HOPPER_WORKSPACE_BYTES = 32 * _MIB
# One for the thread of forward passes and one for autograd's, which runs backward. No storages have these numbers.
_WORKSPACES = (-1, -2)


class Allocator(PlannedAllocator, ABC):
    """The model of a device's allocator. Storages are known by their number."""

    name: str

    def __init__(self) -> None:
        self.reserved_bytes = 0
        """Taken from the system and not given back."""

    @abstractmethod
    def allocate(self, storage: int, size_bytes: int) -> None:
        """Give a storage room in the reserved memory, or reserve more."""

    @abstractmethod
    def free(self, storage: int) -> None:
        """Take the room of a storage back."""


class CudaCachingAllocator(Allocator):
    """torch's caching allocator for CUDA with its default settings (c10/cuda/CUDACachingAllocator.cpp).

    Sizes are rounded up to 512 bytes. Up to 1 MiB they come from segments of 2 MiB, up to 10 MiB from segments of
    20 MiB, and above each from a segment of its own, rounded up to 2 MiB, unless a free block fits. The rest of a block
    is split off: from 512 bytes on in small segments, above 1 MiB in large ones. Freed neighbours are joined; segments
    stay reserved.

    Does not see: the CUDA context, and memory that libraries allocate outside torch.

    Args:
        workspace_bytes: cuBLAS's workspace, which each of two threads has; 0: none.
    """

    name = "cuda caching allocator"
    _ROUNDING_BYTES = 512
    _SMALL_BYTES = _MIB
    _SMALL_SEGMENT_BYTES = 2 * _MIB
    _OWN_SEGMENT_FROM_BYTES = 10 * _MIB
    _LARGE_SEGMENT_BYTES = 20 * _MIB
    _SEGMENT_ROUNDING_BYTES = 2 * _MIB

    def __init__(self, *, workspace_bytes: int = CUBLAS_HOPPER_WORKSPACE_BYTES) -> None:
        super().__init__()
        self._small, self._large = FreeBlocks(), FreeBlocks()
        self._used: dict[int, tuple[FreeBlocks, Block]] = {}
        for workspace in _WORKSPACES if workspace_bytes else ():
            self.allocate(workspace, workspace_bytes)

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
        pool.add(pool.join_neighbours(block))

    def trim(self) -> None:
        for pool in (self._small, self._large):
            for block in [block for block in pool if not block.before and not block.after]:
                pool.remove(block)
                self.reserved_bytes -= block.size_bytes

    def _new_segment(self, size_bytes: int) -> Block:
        if size_bytes <= self._SMALL_BYTES:
            segment_bytes = self._SMALL_SEGMENT_BYTES
        elif size_bytes < self._OWN_SEGMENT_FROM_BYTES:
            segment_bytes = self._LARGE_SEGMENT_BYTES
        else:
            segment_bytes = round_up(size_bytes, self._SEGMENT_ROUNDING_BYTES)
        self.reserved_bytes += segment_bytes
        return Block(segment_bytes)


@dataclass(slots=True, eq=False)
class _Heap:
    """A Metal heap."""

    size_bytes: int
    available_bytes: int
    """Outside any buffer."""
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


class MpsHeapAllocator(Allocator):
    """torch's allocator for MPS (aten/src/ATen/mps/MPSAllocator.h and .mm).

    Buffers lie in Metal heaps: of 8 MiB for up to 1 MiB, of 32 MiB below 10 MiB, of 1 GiB below 512 MiB, and above, or
    once the soft limit is reached, each in one of its own, rounded up to 2 MiB. A freed buffer is kept and given to
    the next request that is at most 32 MiB smaller.

    Assumed, because it is not documented: heaps do not fragment, and buffers are aligned to pages of 16 KiB. Does not
    see: memory that MPSGraph allocates for itself.

    Args:
        low_watermark_bytes: the soft limit, 1.4 times Metal's recommended working set.
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
        super().__init__()
        self._low_watermark_bytes = low_watermark_bytes
        self._small, self._large = _HeapPool(), _HeapPool()
        self._used: dict[int, tuple[_HeapPool, _Buffer]] = {}

    def allocate(self, storage: int, size_bytes: int) -> None:
        size_bytes = round_up(size_bytes, self._ALIGNMENT_BYTES)
        pool = self._small if size_bytes <= self._SMALL_BYTES else self._large
        self._used[storage] = pool, self._kept_buffer(pool, size_bytes) or self._new_buffer(pool, size_bytes)

    def free(self, storage: int) -> None:
        pool, buffer = self._used.pop(storage)
        pool.freed += 1
        insort(pool.available, (buffer.size_bytes, pool.freed, buffer))

    def trim(self) -> None:
        for pool in (self._small, self._large):
            for _, _, buffer in pool.available:
                self._release(pool, buffer, keep_heap=False)
            pool.available.clear()

    def _kept_buffer(self, pool: _HeapPool, size_bytes: int) -> _Buffer | None:
        index = bisect_left(pool.available, (size_bytes, 0))
        if index == len(pool.available):
            return None
        buffer = pool.available[index][2]
        if buffer.size_bytes <= size_bytes + self._LARGE_HEAP_BYTES:
            del pool.available[index]
            return buffer
        if not any(heap.available_bytes >= size_bytes for heap in pool.heaps):
            del pool.available[index]
            self._release(pool, buffer, keep_heap=True)
        return None

    def _new_buffer(self, pool: _HeapPool, size_bytes: int) -> _Buffer:
        with_room = [heap for heap in pool.heaps if heap.available_bytes >= size_bytes]
        heap = min(with_room, key=lambda heap: heap.available_bytes) if with_room else self._new_heap(pool, size_bytes)
        heap.available_bytes -= size_bytes
        heap.buffers += 1
        return _Buffer(size_bytes, heap)

    def _new_heap(self, pool: _HeapPool, size_bytes: int) -> _Heap:
        over_soft_limit = self.reserved_bytes >= self._low_watermark_bytes
        if size_bytes <= self._SMALL_BYTES:
            heap_bytes = self._SMALL_HEAP_BYTES
        elif size_bytes < self._LARGE_FROM_BYTES:
            heap_bytes = self._LARGE_HEAP_BYTES
        elif size_bytes < self._EXTRA_LARGE_HEAP_BYTES // 2 and not over_soft_limit:
            heap_bytes = self._EXTRA_LARGE_HEAP_BYTES
        else:
            heap_bytes = round_up(size_bytes, self._HEAP_ROUNDING_BYTES)
        heap = _Heap(heap_bytes, heap_bytes)
        pool.heaps.append(heap)
        self.reserved_bytes += heap_bytes
        return heap

    def _release(self, pool: _HeapPool, buffer: _Buffer, *, keep_heap: bool) -> None:
        heap = buffer.heap
        heap.available_bytes += buffer.size_bytes
        heap.buffers -= 1
        if not heap.buffers and not keep_heap:
            pool.heaps.remove(heap)
            self.reserved_bytes -= heap.size_bytes


class LiveAllocator(Allocator):
    """Reserves the live bytes and nothing else: for systems whose allocator has no model here."""

    name = "live bytes"

    def __init__(self) -> None:
        super().__init__()
        self._sizes_bytes: dict[int, int] = {}

    def allocate(self, storage: int, size_bytes: int) -> None:
        self._sizes_bytes[storage] = size_bytes
        self.reserved_bytes += size_bytes

    def free(self, storage: int) -> None:
        self.reserved_bytes -= self._sizes_bytes.pop(storage)
