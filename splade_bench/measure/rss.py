"""Resident memory of a process: now, and the kernel's own high-water mark.

Does not see: pages that were swapped out, and memory on a device.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splade_bench.errors import error_line
from splade_bench.measure.readings import or_none

# Here, not where it is used: measured code may have a module of this name.
if sys.platform != "win32":
    import resource

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK_RSS = "5"  # proc(5): resets VmHWM to the current VmRSS
# macOS, sys/resource.h: struct rusage_info_v4 is 16 bytes of uuid and then 64-bit fields.
_RUSAGE_INFO_V4 = 4
_PHYS_FOOTPRINT = 2 + 7
_LIFETIME_MAX_PHYS_FOOTPRINT = 2 + 28
_RUSAGE_FIELDS = 64  # more than any version has


NOT_MEASURED = "not measured: "
"""What the source of a peak that is None begins with; the reason follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory:
    """A peak and its source. ``peak_bytes`` counts everything the process held, its runtime included.

    Both sizes are None where this system does not report them. The source then says why.
    """

    source: str
    start_bytes: int | None
    peak_bytes: int | None


def current_rss_bytes() -> int:
    """Resident set size of this process now; on macOS its physical footprint.

    On macOS the resident set leaves out compressed pages and the GPU's, and counts some freed pages.

    In a training or an evaluation use :func:`known_rss_bytes`, which never raises.

    Raises:
        OSError: this system does not report it.
    """
    footprint = _macos_footprint()
    return footprint[0] if footprint else int(_psutil_memory(os.getpid()).rss)


def known_rss_bytes() -> int | None:
    """As :func:`current_rss_bytes`; None where this system does not report it."""
    return or_none(current_rss_bytes)


def status_bytes(name: str) -> int:
    """A size that Linux reports for this process: ``VmHWM``, ``VmData``, ``VmSwap``.

    Raises:
        OSError: the kernel does not report it.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


class RssReader:
    """Reads the resident set size of a process many times; on Linux each reading takes a few microseconds.

    Args:
        pid: another process; None: this one.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._statm: int | None = None
        if sys.platform == "linux":
            self._page_bytes = os.sysconf("SC_PAGE_SIZE")
            # psutil opens the file for each reading, which takes ten times as long.
            with suppress(OSError):  # the process has ended already
                self._statm = os.open(f"/proc/{pid or 'self'}/statm", os.O_RDONLY)

    def read(self) -> int:
        """Resident set size now, in bytes; 0 if the process has ended."""
        if sys.platform == "linux":
            try:
                return int(os.pread(self._statm, 64, 0).split()[1]) * self._page_bytes if self._statm is not None else 0
            except (OSError, IndexError):
                return 0
        if self._pid is None:
            return current_rss_bytes()
        import psutil

        try:
            return int(_psutil_memory(self._pid).rss)
        except psutil.Error:
            return 0

    def read_own(self) -> int:
        """Resident set size of this process, which is never 0.

        Raises:
            OSError: this system does not report it.
        """
        size_bytes = self.read()
        if not size_bytes:
            raise OSError("this system does not report resident memory")
        return size_bytes

    def close(self) -> None:
        """Close the file that is read."""
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None


class PeakRss:
    """The kernel's high-water mark of resident memory since :meth:`start`.

    Linux resets ``VmHWM`` at the start, for the whole process. macOS (the lifetime maximum of the physical footprint)
    and Windows (the peak working set) cannot reset theirs: there the peak is that of the process's whole life, so
    measure in a fresh process. ``ru_maxrss`` is not used on Linux: a child inherits its parent's. Some sandboxes, such
    as gVisor, have no mark: there the peak is None.

    Neither method raises.
    """

    def __init__(self) -> None:
        self._start_bytes: int | None = None
        self.resettable = sys.platform == "linux"
        """Whether the start resets the mark; else the peak is that of the process's whole life."""

    def start(self) -> None:
        """Note the resident memory now, and reset the mark where the kernel allows it."""
        if sys.platform == "linux":
            try:
                _CLEAR_REFS.write_text(_RESET_PEAK_RSS)
            except OSError:
                self.resettable = False  # some sandboxes forbid it; the source then says so
        self._start_bytes = known_rss_bytes()

    def read(self) -> PeakMemory:
        """The peak so far; reading does not reset it."""
        try:
            source, peak_bytes = _lifetime_peak()
        except Exception as error:  # of psutil, ctypes and the kernel's files, which sandboxes imitate in part
            reason = NOT_MEASURED + error_line(error)
            return PeakMemory(source=reason, start_bytes=self._start_bytes, peak_bytes=None)
        if not self.resettable:
            source = f"{source} of the process's whole life"
        peak_bytes = max(peak_bytes, self._start_bytes or 0)  # the kernel's own counts may lag by some pages a thread
        return PeakMemory(source=source, start_bytes=self._start_bytes, peak_bytes=peak_bytes)


def _psutil_memory(pid: int) -> Any:
    import psutil  # imported only where it is needed: the launcher must stay small

    return psutil.Process(pid).memory_info()


def _lifetime_peak() -> tuple[str, int]:
    if sys.platform == "linux":
        peak_bytes = status_bytes("VmHWM")
        if not peak_bytes:  # WSL 1
            raise OSError(f"{_STATUS} has a VmHWM of 0")
        return "VmHWM", peak_bytes
    if sys.platform == "win32":
        return "peak_wset", int(_psutil_memory(os.getpid()).peak_wset)
    footprint = _macos_footprint()
    if footprint:
        return "ri_lifetime_max_phys_footprint", footprint[1]
    # macOS reports bytes where Linux reports KiB.
    return "ru_maxrss", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _macos_footprint() -> tuple[int, int] | None:
    """Physical footprint of this process: now, and its maximum; None on other systems."""
    if sys.platform != "darwin":
        return None
    fields = (ctypes.c_uint64 * _RUSAGE_FIELDS)()
    if ctypes.CDLL(None).proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V4, ctypes.byref(fields)) != 0:
        return None
    return fields[_PHYS_FOOTPRINT], fields[_LIFETIME_MAX_PHYS_FOOTPRINT]
