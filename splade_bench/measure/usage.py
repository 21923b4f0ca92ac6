"""What a part of a run took from the machine besides memory: processor time, page faults, swap.

Does not see: pages that were swapped out and came back before the reading, except as major faults.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from typing_extensions import Self

from splade_bench.measure.rss import status_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Totals of this process, or the difference of two totals; None if the system does not report it."""

    cpu_time_s: float
    """User and system time, all threads."""
    major_faults: int | None
    """Pages that were read from a disk."""
    swapped_bytes: int | None
    """Memory that is swapped out."""

    @classmethod
    def now(cls) -> Self:
        """The totals of this process so far."""
        return cls(cpu_time_s=time.process_time(), major_faults=_major_faults(), swapped_bytes=_swapped_bytes())

    def since(self, earlier: Usage) -> Usage:
        """The difference to ``earlier``."""
        return Usage(
            cpu_time_s=self.cpu_time_s - earlier.cpu_time_s,
            major_faults=_difference(self.major_faults, earlier.major_faults),
            swapped_bytes=_difference(self.swapped_bytes, earlier.swapped_bytes),
        )


def _difference(value: int | None, earlier: int | None) -> int | None:
    return None if value is None or earlier is None else value - earlier


def _major_faults() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _swapped_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return status_bytes("VmSwap")
    except OSError:  # a kernel without swap
        return None
