"""Known amounts of memory, to check what each probe reads."""

from __future__ import annotations

import time

_PAGE_BYTES = 4096


def touch_block(size_bytes: int, hold_s: float = 0.0) -> int:
    """Allocate a block, write to each of its pages, hold it, and free it before any figure is read."""
    block = bytearray(size_bytes)
    block[::_PAGE_BYTES] = b"x" * len(block[::_PAGE_BYTES])
    time.sleep(hold_s)
    return len(block)
