"""Settings of the C allocator that decide how much memory a process keeps. glibc only, for the whole process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

from splade_bench.device.planned import planned_device

_M_MMAP_THRESHOLD = -3  # malloc.h
_callbacks: list[Callable[[], object]] = []


def fix_mmap_threshold(threshold_bytes: int) -> bool:
    """Give every allocation of at least ``threshold_bytes`` its own mapping, which goes back to the system when freed.

    glibc's threshold starts at 128 KiB and rises to the size of each freed mapping, up to 32 MiB. From then on tensors
    come from the heap, and batches of changing width leave holes that stay resident. A fixed threshold prevents that
    and costs page faults. It holds for the whole process and cannot be undone. Returns False if the C library has no
    such setting (musl, macOS, Windows).
    """
    if planned := planned_device():
        planned.allocator.fix_mmap_threshold(threshold_bytes)
        return True
    mallopt = _c_function("mallopt")
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, threshold_bytes) == 1)


class HeapTrimmer:
    """Trims the heap between mini-batches, and within one each time ``interval_bytes`` more were kept for backward.

    A tensor freed between kept ones leaves a hole, and glibc's aligned allocations do not fill a hole of exactly their
    size. Without trimming, the forward pass of a BERT-base leaves holes of 80 MiB, and its backward more.
    """

    def __init__(self, interval_bytes: int) -> None:
        self._interval_bytes = interval_bytes
        self._kept_bytes = 0

    def begin_pass(self) -> None:
        """A forward pass begins: trim the holes of the backward pass before it."""
        self._kept_bytes = 0
        trim_heap()

    def keep(self, new_bytes: int) -> None:
        """Count bytes that are kept for backward."""
        self._kept_bytes += new_bytes
        if self._kept_bytes >= self._interval_bytes:
            self._kept_bytes = 0
            trim_heap()


def trim_heap() -> bool:
    """Give the free pages of glibc's heap back to the system, also those of holes between blocks.

    Costs milliseconds, and page faults when those addresses are used again. Returns False if the C library has no such
    function (musl, macOS, Windows).
    """
    if planned := planned_device():
        planned.allocator.trim()
        return True
    malloc_trim = _c_function("malloc_trim")
    trimmed = bool(malloc_trim and malloc_trim(0) == 1)
    for callback in _callbacks:
        callback()
    return trimmed


def call_after_trim(callback: Callable[[], object]) -> None:
    """Call ``callback`` after each later :func:`trim_heap`, by which the heap loses pages but keeps its addresses."""
    _callbacks.append(callback)


@cache
def _c_function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
