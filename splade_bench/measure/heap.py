"""Peak of the heap by memray: every allocation through malloc and mmap, freed memory given back or not.

Does not see: memory that was allocated before the tracker started, Python's own small objects up to some MiB, files
that are mapped, memory on a device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TOP_SITES = 5
# Python takes room for small objects from the system 1 MiB at a time, and when it needs the next one is a matter of
# chance. So much room is made before the tracker starts.
_SMALL_OBJECTS_BYTES = 16 * 2**20
_SMALL_OBJECT_BYTES = 512  # the largest that counts as small
# Frames above the allocation in which to look for one outside torch's own Python files.
_MAX_STACKS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocationSite:
    """A line of Python below which memory was live at the peak."""

    site: str
    """``splade_bench/model/head.py:120 backward``: the innermost frame outside torch."""
    size_bytes: int
    allocations: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeapPeak:
    """The largest sum of live allocations."""

    peak_bytes: int
    allocations: int
    """How many were made, those that were freed again included."""
    allocated_bytes: int
    """Their sum."""
    top_sites: Sequence[AllocationSite]


def measure_heap(call: Callable[[], object]) -> HeapPeak | None:
    """Peak of the allocations made during ``call``; None where memray does not run (Windows).

    Only one tracker may be active in a process, and it slows what it watches: use a process of its own.
    """
    try:
        import memray
    except ImportError:
        call()
        return None
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "heap.bin"
        room = _room_for_small_objects()
        with memray.Tracker(capture):
            call()
        del room
        with memray.FileReader(capture) as reader:
            peak_bytes = int(reader.metadata.peak_memory)
            top_sites = _top_sites(reader.get_high_watermark_allocation_records(merge_threads=True))
            freeing = {memray.AllocatorType.FREE, memray.AllocatorType.MUNMAP, memray.AllocatorType.PYMALLOC_FREE}
            made = [record.size for record in reader.get_allocation_records() if record.allocator not in freeing]
    return HeapPeak(peak_bytes=peak_bytes, allocations=len(made), allocated_bytes=sum(made), top_sites=top_sites)


def _room_for_small_objects() -> list[bytes]:
    """What keeps Python's room for small objects, nearly all of it free, for as long as it lives."""
    objects = [bytes(_SMALL_OBJECT_BYTES - 40) for _ in range(_SMALL_OBJECTS_BYTES // _SMALL_OBJECT_BYTES)]
    return objects[:: 2**19 // _SMALL_OBJECT_BYTES]  # one in each MiB keeps it from going back to the system


def _top_sites(records: Any) -> list[AllocationSite]:
    """The sites with most bytes, those of one line summed."""
    sizes: dict[str, list[int]] = {}
    for record in records:
        total = sizes.setdefault(_site(record.stack_trace(max_stacks=_MAX_STACKS)), [0, 0])
        total[0] += record.size
        total[1] += record.n_allocations
    largest = sorted(sizes.items(), key=lambda entry: (-entry[1][0], entry[0]))[:_TOP_SITES]
    return [AllocationSite(site=site, size_bytes=size, allocations=count) for site, (size, count) in largest]


def _site(frames: Sequence[tuple[str, str, int]]) -> str:
    """The innermost frame that is not torch's own, without the folders that differ between machines."""
    for function, file, line in frames:
        if "/torch/" not in file.replace("\\", "/"):
            return f"{_short(file)}:{line} {function}"
    return "torch" if frames else "unknown"


def _short(file: str) -> str:
    """The path from its package on: nobody's home folder belongs into a results file."""
    parts = Path(file).parts
    for anchor in ("site-packages", "splade_bench"):
        if anchor in parts:
            start = parts.index(anchor)
            return "/".join(parts[start + (anchor == "site-packages") :])
    return "/".join(parts[-2:])
