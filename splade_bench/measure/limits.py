"""Limits on the memory of this process, to measure as on a smaller machine.

Does not see: what ``RLIMIT_DATA`` does not count on Linux: file mappings, and pages of a trimmed heap that are touched
again. A control group counts them, if the launcher could make one; so the launcher also watches resident memory. Other
systems have no such limit in the kernel: there only the launcher's watch holds.
"""

from __future__ import annotations

import sys

from splade_bench.errors import ConfigError
from splade_bench.measure.control_group import ControlGroup
from splade_bench.measure.rss import current_rss_bytes, status_bytes
from splade_bench.units import format_bytes


def limit_rss(limit_bytes: int) -> None:
    """Refuse private memory that would bring resident memory, runtime included, over ``limit_bytes``.

    Call it after the imports and a warm-up: before them it would fail the mapping of libraries, which no allocator
    reports. Private memory may grow by the rest of the limit. The limit holds for the process and its children.

    Call :func:`renew_limit` after each trim of the heap.

    Raises:
        ConfigError: the process already has more.
    """
    require_above_floor(limit_bytes, current_rss_bytes())
    if sys.platform == "linux":
        renew_limit(limit_bytes)
        if group := ControlGroup.own():  # for what that does not count; it kills the process without an error
            group.limit(limit_bytes)


def renew_limit(limit_bytes: int) -> None:
    """Let private memory grow by the rest of the limit; does nothing outside Linux.

    ``RLIMIT_DATA`` counts ``VmData``: private writable memory, touched or not. Trimming the heap gives pages back and
    leaves ``VmData`` as it is, so the limit must be computed again after each trim.
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


def require_above_floor(limit_bytes: int, floor_bytes: int) -> None:
    """Refuse a limit that leaves no room above the memory of imports and warm-up.

    Raises:
        ConfigError: it names that memory.
    """
    if limit_bytes <= floor_bytes:
        raise ConfigError(
            f"--memory-limit {format_bytes(limit_bytes)}: Python, its imports and the warm-up already take "
            f"{format_bytes(floor_bytes)}; set a limit of that plus the memory that your code needs"
        )
