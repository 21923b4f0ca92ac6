"""Peak of the heap by memray: every allocation through malloc and mmap, freed memory given back or not.

Does not see: memory that was allocated before the tracker started, files that are mapped, memory on a device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path


def peak_heap_bytes(call: Callable[[], object]) -> int | None:
    """Largest sum of live allocations made during ``call``; None where memray does not run (Windows).

    Only one tracker may be active in a process, and it slows what it watches: use a process of its own.
    """
    try:
        import memray
    except ImportError:
        call()
        return None
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "heap.bin"
        # Aggregated: one record a call site, 60 KB where a record an allocation took gigabytes.
        with memray.Tracker(capture, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS):
            call()
        reader = memray.FileReader(capture)
        return int(reader.metadata.peak_memory)
