"""Out-of-memory errors of every allocator. Imports no torch: its error class is known by name."""

from __future__ import annotations

import errno
import re

# torch raises plain RuntimeErrors for its CPU and MPS allocators, and oneDNN's own ones for its workspaces.
_TEXTS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Invalid buffer size: "),
    *("could not create a primitive", "could not create a memory object"),
)
# "tried to allocate 4096 bytes", "Tried to allocate 2.00 GiB", or, for a buffer that is larger than Metal allows,
# "Invalid buffer size: 28.00 GB". MPS writes GB and means GiB.
_REQUESTED = re.compile(r"(?:tried to allocate|Invalid buffer size:) (\d+(?:\.\d+)?) ?(bytes|[KMG]i?B)", re.IGNORECASE)
_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocator of any device ran out of memory."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # a file that could not be mapped
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def failed_allocation_bytes(error: BaseException) -> int | None:
    """The bytes that an out-of-memory error's message says were requested; None if it does not say."""
    match = _REQUESTED.search(str(error))
    return round(float(match[1]) * _UNITS[match[2][0].lower()]) if match else None
