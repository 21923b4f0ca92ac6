"""What the project wants to know the memory of."""

from __future__ import annotations

from . import sizes


def touch(size_mib: int) -> int:
    """Allocate so much, write to every page, and let it go."""
    block = bytearray(size_mib * sizes.MIB)
    block[::4096] = b"x" * len(block[::4096])
    return size_mib


def fail() -> None:
    raise ValueError("no such block")
