"""What a part of a run took from the machine besides memory, and what other processes took of it meanwhile.

Does not see: pages that were swapped out and came back before the reading, except as major faults. Children that still
run count as other processes.
"""

from __future__ import annotations

import os
import sys
import time

import psutil

from splade_bench.measure.readings import or_none
from splade_bench.measure.rss import status_bytes

# Here, not where it is used: measured code may have a module of this name.
if sys.platform != "win32":
    import resource

Totals = dict[str, float | None]


def usage_now() -> Totals:
    """Totals of this process so far, by name; None where the system does not report one.

    ``cpu_time_s``: user and system time of all threads. ``others_cpu_time_s``: that of all other processes, and what a
    host took from a virtual machine. ``major_faults``: pages that were read from a disk. ``swapped_bytes``: memory that
    is swapped out.
    """
    return {
        "cpu_time_s": time.process_time(),
        "others_cpu_time_s": or_none(_others_cpu_time_s),
        "major_faults": or_none(_major_faults),
        "swapped_bytes": _swapped_bytes(),
    }


def children_usage() -> object:
    """What the child processes that have ended took. It differs if another one has ended; None on Windows."""
    return None if sys.platform == "win32" else or_none(lambda: tuple(resource.getrusage(resource.RUSAGE_CHILDREN)))


def usage_between(earlier: Totals, later: Totals) -> Totals:
    """The difference of each total; None where one of both is unknown."""
    pairs = {name: (earlier[name], total) for name, total in later.items()}
    spent = {name: None if old is None or new is None else new - old for name, (old, new) in pairs.items()}
    others_s = spent.get("others_cpu_time_s")
    # The system counts in hundredths of a second, so that the difference may be just below 0.
    return spent if others_s is None else spent | {"others_cpu_time_s": max(0.0, others_s)}


def _others_cpu_time_s() -> float | None:
    machine = psutil.cpu_times()
    busy = ("user", "nice", "system", "irq", "softirq", "steal")
    machine_s = sum(getattr(machine, name, 0.0) for name in busy)
    if not machine_s:  # a sandbox that reports zeros
        return None
    own = os.times()
    return float(machine_s - time.process_time() - own.children_user - own.children_system)


def _major_faults() -> int | None:
    if sys.platform == "win32":
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _swapped_bytes() -> int | None:
    # A kernel without swap does not have the line.
    return or_none(lambda: status_bytes("VmSwap")) if sys.platform == "linux" else None
