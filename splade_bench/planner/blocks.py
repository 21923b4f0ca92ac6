"""Stretches of memory that allocators cut up and join again."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of memory, free or in use, and its neighbours: what it may be joined with."""

    size_bytes: int
    before: Block | None = None
    after: Block | None = None
    is_free: bool = False
    number: int = 0
    """Among free blocks of one size, the smallest number is taken first."""
    resident_bytes: int = 0
    """How much of it has been written to and not been given back."""


@dataclass(slots=True)
class FreeBlocks:
    """The free blocks of an allocator by size; of equal ones, the one that has been free for longest comes first."""

    _blocks: list[tuple[int, int, Block]] = field(default_factory=list)
    _added: int = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (block for _, _, block in self._blocks)

    def add(self, block: Block) -> None:
        """Make it known as free."""
        self._added += 1
        block.number, block.is_free = self._added, True
        insort(self._blocks, (block.size_bytes, block.number, block))

    def remove(self, block: Block) -> None:
        """Take this one out; it must be there."""
        del self._blocks[bisect_left(self._blocks, (block.size_bytes, block.number))]
        block.is_free = False

    def take(self, size_bytes: int) -> Block | None:
        """Take out the smallest block of at least this size; None where there is none."""
        place = bisect_left(self._blocks, (size_bytes, 0))
        if place == len(self._blocks):
            return None
        block = self._blocks.pop(place)[2]
        block.is_free = False
        return block


def split(block: Block, size_bytes: int) -> Block:
    """Cut ``block`` down to ``size_bytes``; the rest of it, behind it."""
    left_bytes = block.size_bytes - size_bytes
    # Where in a block the written pages lie is not known: they are shared out evenly.
    left_resident_bytes = block.resident_bytes * left_bytes // block.size_bytes
    rest = Block(left_bytes, before=block, after=block.after, resident_bytes=left_resident_bytes)
    if block.after:
        block.after.before = rest
    block.size_bytes, block.after = size_bytes, rest
    block.resident_bytes -= left_resident_bytes
    return rest


def join(first: Block, second: Block) -> Block:
    """``first`` with its neighbour ``second`` in it."""
    first.size_bytes += second.size_bytes
    first.resident_bytes += second.resident_bytes
    first.after = second.after
    if second.after:
        second.after.before = first
    return first


def round_up(size_bytes: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size_bytes // multiple) * multiple
