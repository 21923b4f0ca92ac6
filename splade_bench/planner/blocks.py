"""Stretches of memory that allocators split and join."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of memory, free or in use, and the neighbours with which it can be joined."""

    size_bytes: int
    before: Block | None = None
    after: Block | None = None
    is_free: bool = False
    number: int = 0
    """Among free blocks of one size, the smallest number is taken first."""
    resident_bytes: int = 0
    """Bytes that were written to and not given back to the system."""


@dataclass(slots=True)
class FreeBlocks:
    """The free blocks of an allocator by size; of equal sizes, the one that was freed first comes first."""

    _blocks: list[tuple[int, int, Block]] = field(default_factory=list)
    _added: int = 0

    def __iter__(self) -> Iterator[Block]:
        return (block for _, _, block in self._blocks)

    def add(self, block: Block) -> None:
        """Add a block that is free now."""
        self._added += 1
        block.number, block.is_free = self._added, True
        insort(self._blocks, (block.size_bytes, block.number, block))

    def remove(self, block: Block) -> None:
        """Take out this block, which must be in it."""
        del self._blocks[bisect_left(self._blocks, (block.size_bytes, block.number))]
        block.is_free = False

    def take(self, size_bytes: int) -> Block | None:
        """Take out the smallest block of at least this size; None if every block is smaller."""
        index = bisect_left(self._blocks, (size_bytes, 0))
        if index == len(self._blocks):
            return None
        block = self._blocks.pop(index)[2]
        block.is_free = False
        return block

    def join_neighbours(self, block: Block) -> Block:
        """``block`` joined with its free neighbours, which are taken out."""
        if block.before and block.before.is_free:
            self.remove(block.before)
            block = join(block.before, block)
        if block.after and block.after.is_free:
            self.remove(block.after)
            block = join(block, block.after)
        return block


def split(block: Block, size_bytes: int) -> Block:
    """Shorten ``block`` to ``size_bytes`` and return the rest, which comes after it."""
    left_bytes = block.size_bytes - size_bytes
    # Which pages of a block were written is not known: they are assumed to be spread evenly.
    left_resident_bytes = block.resident_bytes * left_bytes // block.size_bytes
    rest = Block(left_bytes, before=block, after=block.after, resident_bytes=left_resident_bytes)
    if block.after:
        block.after.before = rest
    block.size_bytes, block.after = size_bytes, rest
    block.resident_bytes -= left_resident_bytes
    return rest


def join(first: Block, second: Block) -> Block:
    """Extend ``first`` by ``second``, which comes after it, and return it."""
    first.size_bytes += second.size_bytes
    first.resident_bytes += second.resident_bytes
    first.after = second.after
    if second.after:
        second.after.before = first
    return first


def round_up(size_bytes: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``size_bytes``."""
    return -(-size_bytes // multiple) * multiple
