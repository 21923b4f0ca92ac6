"""The model of glibc's malloc: the memory that it keeps resident for a step's storages (malloc/malloc.c)."""

from __future__ import annotations

from collections import deque

from splade_bench.planner.allocators import Allocator
from splade_bench.planner.blocks import Block, FreeBlocks, join, round_up, split

_PAGE_BYTES = 4096
_HEADER_BYTES = 16
_KIB, _MIB = 2**10, 2**20


class GlibcAllocator(Allocator):
    """glibc's malloc as torch's CPU allocator calls it: ``posix_memalign`` with 64 bytes (c10/core/CPUAllocator.cpp).

    A request takes the smallest free chunk of the heap that has room, else the heap's end. If neither has room, a
    request of at least the mapping threshold gets a mapping of its own, which goes back to the system when it is freed,
    and for a smaller one the heap grows. Freed neighbours are joined. The end of the heap goes back to the system when
    more than the trim threshold of it is free; holes stay resident until the heap is trimmed. The mapping threshold
    starts at 128 KiB and rises to the size of each freed mapping of at most 32 MiB, the trim threshold to twice that,
    unless it is fixed.

    With a storage come small objects of C++ and Python, which no operator shows. The model has one of them, behind the
    storage in the heap, and keeps it for a while after the storage is freed. So the hole of a storage seldom has room
    for another of its size, and the heap's end seldom moves back. The size and the time are calibrated
    (reports/NEGATIVE.md).

    Every allocated byte counts as written. Does not see: workspaces inside operators, and holes from before the run.
    """

    name = "glibc"
    _ALIGNMENT_BYTES = 64
    # memalign asks for this much more, takes an aligned part and gives the rest back.
    _SEARCH_BYTES = 64 + 32
    _TOP_PAD_BYTES = 128 * _KIB
    _MAX_MMAP_THRESHOLD_BYTES = 32 * _MIB
    _SMALL_BYTES = 64
    _SMALL_OUTLIVES_STORAGES = 50  # allocated in the heap since

    def __init__(self) -> None:
        super().__init__()  # reserved: mappings and the heap's written pages
        self._mmap_threshold_bytes = self._trim_threshold_bytes = 128 * _KIB
        self._threshold_is_fixed = False
        self._mapped_bytes: dict[int, int] = {}
        self._used: dict[int, Block] = {}
        self._heap_storages = 0  # storages allocated in the heap so far
        self._small: dict[int, Block] = {}  # by the storage in front
        self._outliving: deque[tuple[int, Block]] = deque()  # small objects whose storage is freed, and when they are
        self._holes = FreeBlocks()
        self._end = Block(0)  # free memory behind the last chunk

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """As ``mallopt(M_MMAP_THRESHOLD, threshold_bytes)``."""
        self._mmap_threshold_bytes, self._threshold_is_fixed = threshold_bytes, True

    def allocate(self, storage: int, size_bytes: int) -> None:
        size_bytes = round_up(size_bytes + _HEADER_BYTES, self._ALIGNMENT_BYTES)
        searched_bytes = size_bytes + self._SEARCH_BYTES
        block = self._holes.take(searched_bytes)
        if block is None:
            if searched_bytes >= self._mmap_threshold_bytes and searched_bytes > self._end.size_bytes:
                self._mapped_bytes[storage] = round_up(searched_bytes, _PAGE_BYTES)
                self.reserved_bytes += self._mapped_bytes[storage]
                return
            block = self._from_end(size_bytes)
        elif block.size_bytes - size_bytes >= self._ALIGNMENT_BYTES:
            self._holes.add(split(block, size_bytes))
        self._write(block)
        self._used[storage] = block
        if small := self._small_behind(block):
            self._small[storage] = small
        self._heap_storages += 1
        while self._outliving and self._outliving[0][0] <= self._heap_storages:
            self._free_block(self._outliving.popleft()[1])

    def free(self, storage: int) -> None:
        mapped_bytes = self._mapped_bytes.pop(storage, None)
        if mapped_bytes is not None:
            self.reserved_bytes -= mapped_bytes
            rises = self._mmap_threshold_bytes < mapped_bytes <= self._MAX_MMAP_THRESHOLD_BYTES
            if rises and not self._threshold_is_fixed:
                self._mmap_threshold_bytes, self._trim_threshold_bytes = mapped_bytes, 2 * mapped_bytes
            return
        self._free_block(self._used.pop(storage))
        if small := self._small.pop(storage, None):
            self._outliving.append((self._heap_storages + self._SMALL_OUTLIVES_STORAGES, small))

    def trim(self) -> None:
        """As ``malloc_trim(0)``: the whole pages of every hole, and the end."""
        for hole in self._holes:
            kept_bytes = min(hole.resident_bytes, _PAGE_BYTES)  # half a page at either side
            self.reserved_bytes -= hole.resident_bytes - kept_bytes
            hole.resident_bytes = kept_bytes
        self._shorten(0)

    def _free_block(self, block: Block) -> None:
        block = self._holes.join_neighbours(block)
        if block.after is not self._end:
            self._holes.add(block)
            return
        self._end = join(block, self._end)
        if self._end.size_bytes >= self._trim_threshold_bytes:
            self._shorten(self._TOP_PAD_BYTES)

    def _small_behind(self, block: Block) -> Block | None:
        """A small object in the free memory behind ``block``; None if there is too little."""
        behind = block.after
        if behind is None or behind.size_bytes < self._SMALL_BYTES:
            return None
        if behind is self._end:
            behind = self._cut_end(self._SMALL_BYTES)
        elif behind.is_free:
            self._holes.remove(behind)
            if behind.size_bytes > 2 * self._SMALL_BYTES:
                self._holes.add(split(behind, self._SMALL_BYTES))
        else:
            return None
        self._write(behind)
        return behind

    def _write(self, block: Block) -> None:
        self.reserved_bytes += block.size_bytes - block.resident_bytes
        block.resident_bytes = block.size_bytes

    def _from_end(self, size_bytes: int) -> Block:
        """A chunk of the heap's end, which grows if it is too short."""
        if self._end.size_bytes < size_bytes + self._SEARCH_BYTES:
            missing_bytes = size_bytes + self._SEARCH_BYTES + self._TOP_PAD_BYTES - self._end.size_bytes
            self._end.size_bytes += round_up(missing_bytes, _PAGE_BYTES)
        return self._cut_end(size_bytes)

    def _cut_end(self, size_bytes: int) -> Block:
        """The front of the heap's end."""
        block = self._end
        written_bytes = block.resident_bytes  # they are at the front
        self._end = split(block, size_bytes)
        block.resident_bytes = min(size_bytes, written_bytes)
        self._end.resident_bytes = written_bytes - block.resident_bytes
        return block

    def _shorten(self, kept_bytes: int) -> None:
        """Give the heap's end back to the system but for ``kept_bytes``."""
        self._end.size_bytes = min(self._end.size_bytes, kept_bytes)
        returned_bytes = max(0, self._end.resident_bytes - self._end.size_bytes)
        self._end.resident_bytes -= returned_bytes
        self.reserved_bytes -= returned_bytes
