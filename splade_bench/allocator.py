"""The C allocator's habits, where they decide what a process keeps: glibc only, and for the whole process."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h


def fix_mmap_threshold(threshold_bytes: int) -> bool:
    """Give every allocation of at least ``threshold_bytes`` a mapping of its own, which freeing returns at once.

    glibc starts at 128 KiB but raises its threshold to each mapped block that is freed, up to 32 MiB: from then on
    tensors come from the heap, and batches of changing width leave holes that stay resident. Fixing the threshold ends
    that, for the price of more page faults. The effect is on the whole process and cannot be taken back. False where
    the C library has no such setting (musl, macOS, Windows).
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, threshold_bytes) == 1)
