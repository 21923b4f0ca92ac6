"""Peak of the heap by memray: every allocation through malloc and mmap until it is freed.

Does not see: memory allocated before the tracker started, some MiB of Python's own small objects, mapped files, memory
on a device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TOP_SITES = 5
# Python takes room for small objects from the system 1 MiB at a time, at unpredictable moments. This much room is made
# before the tracker starts.
_SMALL_OBJECTS_BYTES = 16 * 2**20
_SMALL_OBJECT_BYTES = 512  # the largest that counts as small
# Frames above the allocation in which to look for one outside torch's own Python files.
_MAX_STACKS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocationSite:
    """A line of Python that called what allocated memory that was live at the peak."""

    site: str
    """``splade_bench/model/head.py:120 backward``: the innermost frame outside torch."""
    size_bytes: int
    allocations: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HeapPeak:
    """The largest sum of live allocations."""

    peak_bytes: int
    allocations: int
    """Number of allocations, including those that were freed."""
    allocated_bytes: int
    """Sum of their sizes."""
    top_sites: Sequence[AllocationSite]


def measure_heap(call: Callable[[], object]) -> HeapPeak | None:
    """Peak of the allocations during ``call``; None where memray does not run (Windows).

    Use a fresh process: only one tracker may be active in a process, and it slows the process down.
    """
    try:
        import memray
    except ImportError:
        call()
        return None
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "heap.bin"
        # Room for small objects, nearly all of it free: one object in each MiB keeps the MiB from going back to the
        # system.
        objects = [bytes(_SMALL_OBJECT_BYTES - 40) for _ in range(_SMALL_OBJECTS_BYTES // _SMALL_OBJECT_BYTES)]
        room = objects[:: 2**19 // _SMALL_OBJECT_BYTES]
        del objects
        with memray.Tracker(capture):
            call()
        del room
        with memray.FileReader(capture) as reader:
            peak_bytes = int(reader.metadata.peak_memory)
            top_sites = _top_sites(reader.get_high_watermark_allocation_records(merge_threads=True))
            freeing = {memray.AllocatorType.FREE, memray.AllocatorType.MUNMAP, memray.AllocatorType.PYMALLOC_FREE}
            sizes = [record.size for record in reader.get_allocation_records() if record.allocator not in freeing]
    return HeapPeak(peak_bytes=peak_bytes, allocations=len(sizes), allocated_bytes=sum(sizes), top_sites=top_sites)


def _top_sites(records: Any) -> list[AllocationSite]:
    """The sites with most bytes; allocations at one line are summed."""
    sizes: dict[str, list[int]] = {}
    for record in records:
        total = sizes.setdefault(_site(record.stack_trace(max_stacks=_MAX_STACKS)), [0, 0])
        total[0] += record.size
        total[1] += record.n_allocations
    largest = sorted(sizes.items(), key=lambda entry: (-entry[1][0], entry[0]))[:_TOP_SITES]
    return [AllocationSite(site=site, size_bytes=size, allocations=count) for site, (size, count) in largest]


def _site(frames: Sequence[tuple[str, str, int]]) -> str:
    """The innermost frame outside torch, without the folders that differ between machines."""
    for function, file, line in frames:
        if "/torch/" not in file.replace("\\", "/"):
            return f"{_short(file)}:{line} {function}"
    return "torch" if frames else "unknown"


def _short(file: str) -> str:
    """The path from its package on: a results file must not name anybody's home folder."""
    parts = Path(file).parts
    for anchor in ("site-packages", "splade_bench"):
        if anchor in parts:
            start = parts.index(anchor)
            return "/".join(parts[start + (anchor == "site-packages") :])
    return "/".join(parts[-2:])
