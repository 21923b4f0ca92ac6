"""A smaller machine: limits on the memory of this process.

Does not see: on Linux, what ``RLIMIT_DATA`` does not count: file mappings, and pages of a trimmed heap that are touched
again. A control group does, where whoever started the process gave it one; so its resident memory must be watched too.
Elsewhere no limit of the kernel holds, and only that watch is left.
"""

from __future__ import annotations

import sys

from splade_bench.errors import ConfigError
from splade_bench.measure.control_group import ControlGroup
from splade_bench.measure.rss import current_rss_bytes, status_bytes
from splade_bench.units import format_bytes


def limit_rss(limit_bytes: int) -> None:
    """Let private memory that would bring the resident over ``limit_bytes`` be refused, the runtime included.

    Call it after the imports and a warm-up: before them it would hit the mapping of libraries, which no allocator
    reports. What the process has now stays; private memory may grow by what is left. The limit holds for the process
    and its children.

    Call :func:`renew_limit` whenever the heap has been trimmed.

    Raises:
        ConfigError: the process takes more than that already.
    """
    resident_bytes = current_rss_bytes()
    if limit_bytes <= resident_bytes:
        raise ConfigError(below_floor(limit_bytes, resident_bytes))
    if sys.platform == "linux":
        renew_limit(limit_bytes)
        if group := ControlGroup.own():  # behind it, for what it does not count: it says nothing before it kills
            group.limit(limit_bytes)


def renew_limit(limit_bytes: int) -> None:
    """Let private memory grow by what is left of the limit; does nothing where the kernel holds no such limit.

    ``RLIMIT_DATA`` counts ``VmData``: private writable memory, touched or not. Trimming the heap gives pages back and
    leaves ``VmData`` as it is, so the limit is computed anew after each trim.
    """
    if sys.platform != "linux":
        return
    import resource  # Unix only

    room_bytes = max(0, limit_bytes - current_rss_bytes())
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    data_bytes = status_bytes("VmData") + room_bytes
    if hard_limit != resource.RLIM_INFINITY:
        data_bytes = min(data_bytes, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard_limit))


def below_floor(limit_bytes: int, floor_bytes: int) -> str:
    """What to tell a user whose limit leaves no room for anything."""
    return (
        f"--memory-limit {format_bytes(limit_bytes)}: imports and warm-up alone take {format_bytes(floor_bytes)} here; "
        "give more than that, and what is to be measured needs"
    )
