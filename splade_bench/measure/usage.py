"""What a part of a run took from the machine besides memory: processor time, page faults, swap.

Does not see: pages that were swapped out and came back before the reading, except as major faults.
"""

from __future__ import annotations

import sys
import time

from splade_bench.measure.readings import or_none
from splade_bench.measure.rss import status_bytes

Totals = dict[str, float | None]


def usage_now() -> Totals:
    """Totals of this process so far, by name; None where the system does not report one.

    ``cpu_time_s``: user and system time of all threads. ``major_faults``: pages that were read from a disk.
    ``swapped_bytes``: memory that is swapped out.
    """
    return {
        "cpu_time_s": time.process_time(),
        "major_faults": or_none(_major_faults),
        "swapped_bytes": _swapped_bytes(),
    }


def usage_between(earlier: Totals, later: Totals) -> Totals:
    """The difference of each total; None where one of both is unknown."""
    pairs = {name: (earlier[name], total) for name, total in later.items()}
    return {name: None if old is None or new is None else new - old for name, (old, new) in pairs.items()}


def _major_faults() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _swapped_bytes() -> int | None:
    # A kernel without swap does not have the line.
    return or_none(lambda: status_bytes("VmSwap")) if sys.platform == "linux" else None
