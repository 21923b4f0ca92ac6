"""Control groups of Linux: the ones around this process, and one made around another to limit it and its children.

Such a limit counts what a data limit does not: mapped files, shared memory, children. Its interface has two versions
(Linux, ``Documentation/admin-guide/cgroup-v1/memory.rst`` and ``cgroup-v2.rst``); the second could be tried on a copy
of its files only. What the process took before it was moved stays with the group it came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from typing_extensions import Self

_PROC = Path("/proc")
_NAME = "splade-bench-"
_MEMBERS = "cgroup.procs"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Interface:
    """A version: how it is mounted, and the files of a group by what they say."""

    file_system: str
    controller: str
    """Of memory, as a membership names it."""
    limit: str
    no_swap: tuple[str, str | None]
    """A file, and what to write for no swap beyond the limit; None: the limit itself."""
    events: str


_FIRST_VERSION = _Interface(
    file_system="cgroup",
    controller="memory",
    limit="memory.limit_in_bytes",
    no_swap=("memory.memsw.limit_in_bytes", None),
    events="memory.oom_control",
)
_SECOND_VERSION = _Interface(
    file_system="cgroup2", controller="", limit="memory.max", no_swap=("memory.swap.max", "0"), events="memory.events"
)


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group made for one process, and removed when that has ended."""

    folder: Path
    interface: _Interface

    @classmethod
    def around(cls, pid: int, proc: Path = _PROC) -> Self | None:
        """A new group with process ``pid`` in it; None where this process may make none."""
        for parent, interface in _places(proc):
            _remove_left_over(parent, proc)
            group = cls(parent / f"{_NAME}{os.getpid()}", interface)
            try:
                group.folder.mkdir()
            except OSError:
                continue
            try:
                if (group.folder / interface.limit).exists():  # else memory is not counted here
                    (group.folder / _MEMBERS).write_text(str(pid))
                    return group
            except OSError:
                pass
            group.remove()
        return None

    @classmethod
    def own(cls, proc: Path = _PROC) -> Self | None:
        """The group that :meth:`around` put this process in; None: it did not."""
        place = _own_place(proc)
        return cls(*place) if place and place[0].name.startswith(_NAME) else None

    def limit(self, limit_bytes: int) -> None:
        """Let its processes take no more than this together, nothing of it swapped out: the kernel kills one that must.

        Pages of files that can be read again are given up first.
        """
        file, text = self.interface.no_swap
        with suppress(OSError):  # it takes more already, and another limit says so; or swap is not counted here
            (self.folder / self.interface.limit).write_text(str(limit_bytes))
            (self.folder / file).write_text(text or str(limit_bytes))

    def oom_kills(self) -> int:
        """Its processes that the kernel has ended for want of memory."""
        return oom_kills(self.folder / self.interface.events) or 0

    def remove(self) -> None:
        """Remove it; one whose last process has not quite ended is left to the next :meth:`around`."""
        with suppress(OSError):
            self.folder.rmdir()


def container_limit_bytes(proc: Path = _PROC) -> int | None:
    """What the tightest group around this process lets it take; None where none has a limit, or nobody says."""
    place = _own_place(proc)
    if place is None:
        return None
    folder, interface = place
    limits = (_limit_bytes(group / interface.limit) for group in (folder, *folder.parents))
    return min((limit for limit in limits if limit is not None), default=None)


def oom_kills_around(proc: Path = _PROC) -> int:
    """Processes that the kernel has ended for want of memory: in this process's group, else as far as it may see."""
    place = _own_place(proc)
    files = [place[0] / place[1].events] if place else []
    counts = (oom_kills(path) for path in (*files, proc / "vmstat"))
    return next((count for count in counts if count is not None), 0)


def oom_kills(path: Path) -> int | None:
    """The count of ``oom_kill`` in a file of counters; None: it is not there, or has none."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _limit_bytes(path: Path) -> int | None:
    """The limit in a group's file; None: the file is not there, or says that there is none."""
    with suppress(OSError):
        text = path.read_text().strip()
        # The first version writes a number near 2^63 for no limit, the second "max".
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None


def _places(proc: Path) -> Iterator[tuple[Path, _Interface]]:
    """Where a group may be made: below this process's own; beside it, where that escapes no limit.

    In the second version a group with processes in it gives its children no memory controller.
    """
    place = _own_place(proc)
    if place is None:
        return
    folder, interface = place
    yield folder, interface
    with suppress(OSError):
        if interface is _SECOND_VERSION and (folder / interface.limit).read_text().strip() == "max":
            yield folder.parent, interface


def _own_place(proc: Path) -> tuple[Path, _Interface] | None:
    """The folder of the group that counts this process's memory."""
    try:
        memberships = [line.split(":", 2) for line in _lines(proc / "self/cgroup")]
        mounts = [line.split(" - ", 1) for line in _lines(proc / "self/mountinfo")]
    except OSError:  # no Linux
        return None
    # The first version, where it has the memory: then the second has not.
    for interface in (_FIRST_VERSION, _SECOND_VERSION):
        groups = [Path(path) for _, controllers, path in memberships if interface.controller in controllers.split(",")]
        shown = [where.split(" ")[3:5] for where, what in mounts if _is_mount_of(interface, what)]
        for group, (root, mount_point) in product(groups, shown):
            if group.is_relative_to(root):  # else it is outside what is mounted here
                return Path(mount_point) / group.relative_to(root), interface
    return None


def _lines(path: Path) -> list[str]:
    """Of a file that names folders: their names are bytes, and need not be text."""
    return [line for line in os.fsdecode(path.read_bytes()).split("\n") if line]


def _is_mount_of(interface: _Interface, what: str) -> bool:
    """Whether the end of a line of ``mountinfo``, what is mounted there, is the interface's memory controller."""
    kind, _, options = what.split(" ", 2)
    return kind == interface.file_system and (not interface.controller or interface.controller in options.split(","))


def _remove_left_over(parent: Path, proc: Path) -> None:
    """Remove the empty groups of launchers that were killed."""
    for folder in parent.glob(f"{_NAME}*"):
        if not (proc / folder.name.removeprefix(_NAME)).exists():
            with suppress(OSError):
                folder.rmdir()
