"""The C allocator's habits, where they decide what a process keeps: glibc only, and for the whole process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

from splade_bench.device.planned import planned_device

_M_MMAP_THRESHOLD = -3  # malloc.h
_after_trim: list[Callable[[], object]] = []


def fix_mmap_threshold(threshold_bytes: int) -> bool:
    """Give every allocation of at least ``threshold_bytes`` a mapping of its own, which freeing returns at once.

    glibc starts at 128 KiB but raises its threshold to each mapped block that is freed, up to 32 MiB: from then on
    tensors come from the heap, and batches of changing width leave holes that stay resident. Fixing the threshold ends
    that, for the price of more page faults. The effect is on the whole process and cannot be taken back. False where
    the C library has no such setting (musl, macOS, Windows).
    """
    if planned := planned_device():
        planned.allocator.fix_mmap_threshold(threshold_bytes)
        return True
    mallopt = _c_function("mallopt")
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, threshold_bytes) == 1)


class HeapTrimmer:
    """Trims the heap between the mini-batches of a step, and in them as often as so many bytes were kept for backward.

    Whatever is freed between tensors that are kept leaves a hole, and glibc's aligned allocations do not fill a hole of
    just their size: without trimming, the forward pass of a BERT-base leaves 80 MiB of them, and its backward more.
    """

    def __init__(self, interval_bytes: int) -> None:
        self._interval_bytes = interval_bytes
        self._kept_bytes = 0

    def begin_again(self) -> None:
        """A forward pass begins after the backward of another, whose holes go."""
        self._kept_bytes = 0
        trim_heap()

    def keep(self, new_bytes: int) -> None:
        """Count bytes that stay for backward."""
        self._kept_bytes += new_bytes
        if self._kept_bytes >= self._interval_bytes:
            self._kept_bytes = 0
            trim_heap()


def trim_heap() -> bool:
    """Give the free pages of glibc's heap back to the system, holes between blocks included.

    Costs milliseconds, and the page faults of whatever uses those pages next. False where the C library has no such
    function (musl, macOS, Windows).
    """
    if planned := planned_device():
        planned.allocator.trim()
        return True
    malloc_trim = _c_function("malloc_trim")
    trimmed = bool(malloc_trim and malloc_trim(0) == 1)
    for call in _after_trim:
        call()
    return trimmed


def call_after_trim(call: Callable[[], object]) -> None:
    """Have this called from now on whenever the heap has been trimmed: it keeps its addresses, but not their pages."""
    _after_trim.append(call)


@cache
def _c_function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
