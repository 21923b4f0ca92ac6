"""Resident memory of a process together with its child processes and theirs. A page that several hold counts once.

Does not see: what rises and falls between two readings, a child that ends before its second reading, a process that its
parent left behind. Pages of libraries that processes outside the tree share count by some MiB too much or too little.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from splade_bench.measure.readings import or_none

_PROC = Path("/proc")
# Linux reads the page tables for it, in some 20 ms a GiB, while which the process cannot map memory. After a reading
# that took some time, none begins for this many times as long, unless a process came or went.
_REST = 20


class ProcessTree:
    """Reads the memory of process ``pid`` and of all its descendants, many times.

    Between ``vfork`` and ``exec``, a child is shown with all the memory of its parent. So a child counts from its
    second reading on, and only if its sizes are not exactly those of its parent.
    """

    def __init__(self, pid: int) -> None:
        self.children: set[int] = set()
        """Descendants that were seen in any reading."""
        self.counted: set[int] = set()
        """Those whose memory counted in a reading."""
        self.peak_with_children_bytes = 0
        """Largest reading in which a child counted."""
        self._pid = pid
        # What it shares with processes outside the tree is its own as well. With children, that is not known.
        self._outside_bytes = 0 if _descendants(pid) else or_none(lambda: _excess_bytes(pid)) or 0
        self._earlier: set[int] = set()
        self._shared_by: Sequence[int] = ()
        self._shared_bytes = 0
        self._due_s = 0.0

    def read(self) -> int:
        """Memory now, in bytes; 0 if the process has ended."""
        parents = _descendants(self._pid)
        sizes = {pid: _sizes(pid) for pid in (self._pid, *parents)}
        counted = [
            pid
            for pid, parent in parents.items()
            if pid in self._earlier and _resident_bytes(sizes[pid]) and sizes[pid] != sizes[parent]
        ]
        self._earlier = set(parents)
        self.children |= self._earlier
        return self._with(counted, sizes) if counted else _resident_bytes(sizes[self._pid])

    def _with(self, counted: Sequence[int], sizes: Mapping[int, Sequence[int]]) -> int:
        """Memory of the process and the descendants ``counted``, of these sizes, in bytes."""
        pids = [self._pid, *counted]
        resident_bytes = [_resident_bytes(sizes[pid]) for pid in pids]
        if pids != self._shared_by or time.monotonic() >= self._due_s:
            start_s = time.thread_time()
            excess_bytes = sum(or_none(partial(_excess_bytes, pid)) or 0 for pid in pids)
            rest_s = _REST * (time.thread_time() - start_s)
            alone_bytes = resident_bytes[0]
            resident_bytes = [_resident_bytes(_sizes(pid)) for pid in pids]
            # One that ended meanwhile no longer shares: what it shared would count again as its own.
            if not all(resident_bytes):
                return alone_bytes
            self._shared_bytes = max(0, excess_bytes - self._outside_bytes)
            self._shared_by, self._due_s = pids, time.monotonic() + rest_s
        size_bytes = max(max(resident_bytes), sum(resident_bytes) - self._shared_bytes)
        self.counted.update(counted)
        self.peak_with_children_bytes = max(self.peak_with_children_bytes, size_bytes)
        return size_bytes


def _descendants(pid: int) -> dict[int, int]:
    """Parent of each descendant, by its process id; a parent comes before its children."""
    parents: dict[int, int] = {}
    to_ask = [pid]
    while to_ask:
        parent = to_ask.pop()
        children = [child for child in _children(parent) if child not in parents]
        parents |= dict.fromkeys(children, parent)
        to_ask += children
    return parents


def _children(pid: int) -> list[int]:
    if sys.platform == "linux" and _lists_children():
        found = []
        for task in or_none(lambda: list((_PROC / f"{pid}/task").iterdir())) or []:
            text = or_none((task / "children").read_bytes) or b""
            found += [int(child) for child in text.split()]
        return found
    import psutil  # only where it is needed: it takes milliseconds

    return [child.pid for child in or_none(lambda: psutil.Process(pid).children()) or []]


def _lists_children() -> bool:
    return (_PROC / f"self/task/{os.getpid()}/children").exists()


def _sizes(pid: int) -> tuple[int, ...]:
    """Sizes of a process, the second of which is its resident memory; empty if it has ended."""
    if sys.platform == "linux":
        text = or_none((_PROC / f"{pid}/statm").read_bytes) or b""
        return tuple(int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in text.split())
    import psutil

    memory = or_none(lambda: psutil.Process(pid).memory_info())
    return () if memory is None else (pid, int(memory.rss))


def _resident_bytes(sizes: Sequence[int]) -> int:
    return sizes[1] if len(sizes) > 1 else 0


def _excess_bytes(pid: int) -> int:
    """Resident minus proportional memory: in the latter, a page of n processes counts as 1/n in each."""
    sizes = dict.fromkeys((b"Rss:", b"Pss:"), 0)
    for line in (_PROC / f"{pid}/smaps_rollup").read_bytes().splitlines():
        name, *rest = line.split()
        if name in sizes:
            sizes[name] = int(rest[0]) * 1024
    return max(0, sizes[b"Rss:"] - sizes[b"Pss:"])
