"""Resident memory of this process: now, and the kernel's own high-water mark.

Does not see: pages that were swapped out, and memory on a device.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK_RSS = "5"  # proc(5): resets VmHWM to the current VmRSS
# macOS, sys/resource.h: struct rusage_info_v4 is 16 bytes of uuid and then 64-bit fields.
_RUSAGE_INFO_V4 = 4
_PHYS_FOOTPRINT = 2 + 7
_LIFETIME_MAX_PHYS_FOOTPRINT = 2 + 28
_RUSAGE_FIELDS = 64  # more than any version has


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory:
    """A peak and where it came from. ``peak_bytes`` counts everything the process held, its runtime included."""

    source: str
    baseline_bytes: int
    peak_bytes: int

    @property
    def delta_bytes(self) -> int:
        """What the measured part added."""
        return self.peak_bytes - self.baseline_bytes


def current_rss_bytes() -> int:
    """Resident set size now; on macOS the physical footprint.

    There resident memory leaves compressed pages and the GPU's out and counts some that were freed.
    """
    footprint = _macos_footprint()
    return footprint[0] if footprint else int(psutil.Process().memory_info().rss)


def status_bytes(name: str) -> int:
    """A size that Linux keeps of this process: ``VmHWM``, ``VmData``, ``VmSwap``.

    Raises:
        OSError: the kernel does not say.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


class RssReader:
    """Reads the resident set size again and again, for a few microseconds each time on Linux."""

    def __init__(self) -> None:
        # psutil opens and parses the same file anew each time, ten times as slowly.
        self._statm = _STATM.open("rb", buffering=0) if sys.platform == "linux" else None
        self._page_bytes = os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else 1

    def read(self) -> int:
        """Resident set size now, in bytes."""
        if self._statm is None:
            return current_rss_bytes()
        return int(os.pread(self._statm.fileno(), 64, 0).split()[1]) * self._page_bytes

    def close(self) -> None:
        """Give the file back."""
        if self._statm is not None:
            self._statm.close()


class PeakRss:
    """The kernel's high-water mark of resident memory since :meth:`start`.

    Linux resets ``VmHWM`` at the start, which is an effect on the whole process. macOS (the lifetime maximum of the
    physical footprint) and Windows (the peak working set) cannot reset theirs: there the peak is that of the process's
    whole life, so measure in a fresh one. ``ru_maxrss`` is not used on Linux: a child inherits its parent's.
    """

    def __init__(self) -> None:
        self._baseline_bytes = 0
        self._reset = sys.platform == "linux"

    def start(self) -> None:
        """Take the baseline and, where the kernel allows it, forget earlier peaks."""
        if sys.platform == "linux":
            try:
                _CLEAR_REFS.write_text(_RESET_PEAK_RSS)
            except OSError:
                self._reset = False  # some sandboxes forbid it; the source then says so
        self._baseline_bytes = current_rss_bytes()

    @property
    def resettable(self) -> bool:
        """Whether earlier peaks were forgotten at the start; else the peak is that of the process's whole life."""
        return self._reset

    def read(self) -> PeakMemory:
        """The peak so far; reading does not disturb it."""
        source, peak_bytes = _lifetime_peak()
        if not self._reset:
            source = f"{source} of the process's whole life"
        peak_bytes = max(peak_bytes, self._baseline_bytes)  # the kernel's own counts may lag by some pages a thread
        return PeakMemory(source=source, baseline_bytes=self._baseline_bytes, peak_bytes=peak_bytes)


def _lifetime_peak() -> tuple[str, int]:
    if sys.platform == "linux":
        return "VmHWM", status_bytes("VmHWM")
    if sys.platform == "win32":
        return "peak_wset", int(psutil.Process().memory_info().peak_wset)
    footprint = _macos_footprint()
    if footprint:
        return "ri_lifetime_max_phys_footprint", footprint[1]
    import resource  # Unix only

    # macOS reports bytes where Linux reports KiB.
    return "ru_maxrss", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _macos_footprint() -> tuple[int, int] | None:
    """Physical footprint of this process, now and at its largest; None where the system has no such thing."""
    if sys.platform != "darwin":
        return None
    fields = (ctypes.c_uint64 * _RUSAGE_FIELDS)()
    if ctypes.CDLL(None).proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V4, ctypes.byref(fields)) != 0:
        return None
    return fields[_PHYS_FOOTPRINT], fields[_LIFETIME_MAX_PHYS_FOOTPRINT]
