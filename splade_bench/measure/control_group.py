"""Control groups of Linux: the groups of this process, and a new group that limits another process and its children.

Such a limit counts what a data limit does not: mapped files, shared memory, children. The interface has two versions
(Linux, ``Documentation/admin-guide/cgroup-v1/memory.rst`` and ``cgroup-v2.rst``); this project tested the second only
on a copy of its files. Memory that the process had before it was moved still counts in its old group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

_PROC = Path("/proc")
_NAME = "splade-bench-"
_MEMBERS = "cgroup.procs"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Interface:
    """A version of the interface: how it is mounted, and a group's files by their content."""

    file_system: str
    controller: str
    """The memory controller, as ``/proc/self/cgroup`` names it."""
    limit: str
    usage: str
    reclaimable: str
    """The line of ``memory.stat`` with pages of files that the kernel gives up first."""
    no_swap: tuple[str, str | None]
    """A file, and what to write to it to forbid swap beyond the limit; None: the limit itself."""
    events: str


_FIRST_VERSION = _Interface(
    file_system="cgroup",
    controller="memory",
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    reclaimable="total_inactive_file",
    no_swap=("memory.memsw.limit_in_bytes", None),
    events="memory.oom_control",
)
_SECOND_VERSION = _Interface(
    file_system="cgroup2",
    controller="",
    limit="memory.max",
    usage="memory.current",
    reclaimable="inactive_file",
    no_swap=("memory.swap.max", "0"),
    events="memory.events",
)


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group. :meth:`create` makes one for a process, :meth:`remove` removes it when the process has ended."""

    folder: Path
    interface: _Interface

    @classmethod
    def create(cls, pid: int, proc: Path = _PROC) -> ControlGroup | None:
        """A new group with process ``pid`` in it; None if this process may not make one."""
        for parent in _parent_groups(proc):
            _remove_left_over(parent.folder, proc)
            group = cls(parent.folder / f"{_NAME}{os.getpid()}", parent.interface)
            try:
                group.folder.mkdir()
            except OSError:
                continue
            try:
                if (group.folder / group.interface.limit).exists():  # else this group does not count memory
                    (group.folder / _MEMBERS).write_text(str(pid))
                    return group
            except OSError:
                pass
            group.remove()
        return None

    @classmethod
    def own(cls, proc: Path = _PROC) -> ControlGroup | None:
        """The group that :meth:`create` put this process in, if any."""
        group = _own_group(proc)
        return group if group and group.folder.name.startswith(_NAME) else None

    def limit(self, limit_bytes: int) -> None:
        """Limit the memory of all its processes together, without swap; the kernel kills a process that needs more.

        The kernel first drops pages of files, which can be read again.
        """
        file, text = self.interface.no_swap
        with suppress(OSError):  # it has more already, which another limit reports; or swap is not counted here
            (self.folder / self.interface.limit).write_text(str(limit_bytes))
            (self.folder / file).write_text(text or str(limit_bytes))

    def oom_kills(self) -> int:
        """How many of its processes the kernel's out-of-memory killer has ended."""
        return oom_kills(self.folder / self.interface.events) or 0

    def remove(self) -> None:
        """Remove the group; if its last process has not quite ended, the next :meth:`create` removes it."""
        with suppress(OSError):
            self.folder.rmdir()


def container_limit_bytes(proc: Path = _PROC) -> int | None:
    """The smallest limit of this process's groups; None if there is none."""
    own = _own_group(proc)
    if own is None:
        return None
    limits = (_limit_bytes(folder / own.interface.limit) for folder in (own.folder, *own.folder.parents))
    return min((limit for limit in limits if limit is not None), default=None)


def container_free_bytes(proc: Path = _PROC) -> int | None:
    """What this process's groups can still take below their limits; None if there is no limit."""
    own = _own_group(proc)
    if own is None:
        return None
    free = []
    for folder in (own.folder, *own.folder.parents):
        limit_bytes, used_bytes = (_limit_bytes(folder / name) for name in (own.interface.limit, own.interface.usage))
        if limit_bytes is not None and used_bytes is not None:
            reclaimable_bytes = _counter(folder / "memory.stat", own.interface.reclaimable) or 0
            free.append(max(0, limit_bytes - max(0, used_bytes - reclaimable_bytes)))
    return min(free, default=None)


def visible_oom_kills(proc: Path = _PROC) -> int:
    """How many processes the out-of-memory killer has ended: in this process's group if it counts them, else in all."""
    own = _own_group(proc)
    count = oom_kills(own.folder / own.interface.events) if own else None
    return (oom_kills(proc / "vmstat") or 0) if count is None else count


def oom_kills(path: Path) -> int | None:
    """The count of ``oom_kill`` in a file of counters; None if there is none."""
    return _counter(path, "oom_kill")


def _counter(path: Path, wanted: str) -> int | None:
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == wanted:
                return int(count)
    return None


def _limit_bytes(path: Path) -> int | None:
    """The limit in a group's file; None if there is none."""
    with suppress(OSError):
        text = path.read_text().strip()
        # The first version writes a number near 2^63 for no limit, the second "max".
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None


def _parent_groups(proc: Path) -> Iterator[ControlGroup]:
    """Groups in which to make a group: this process's own, and its parent if that does not escape a limit.

    In the second version, a group that has processes gives its children no memory controller.
    """
    own = _own_group(proc)
    if own is None:
        return
    yield own
    with suppress(OSError):
        if own.interface is _SECOND_VERSION and (own.folder / own.interface.limit).read_text().strip() == "max":
            yield ControlGroup(own.folder.parent, own.interface)


def _own_group(proc: Path) -> ControlGroup | None:
    """The group that counts this process's memory; None if there is none, or its folder is not mounted."""
    try:
        memberships = [line.split(":", 2) for line in _lines(proc / "self/cgroup")]
        mounts = [line.split(" - ", 1) for line in _lines(proc / "self/mountinfo")]
    except OSError:  # no Linux
        return None
    # If the first version has the memory controller, the second does not.
    for interface in (_FIRST_VERSION, _SECOND_VERSION):
        groups = [Path(path) for _, controllers, path in memberships if interface.controller in controllers.split(",")]
        for group, (where, what) in product(groups, mounts):
            kind, _, options = what.split(" ", 2)
            root, mount_point = where.split(" ")[3:5]
            mounted = kind == interface.file_system and interface.controller in ("", *options.split(","))
            if mounted and group.is_relative_to(root):  # else the mount does not show the group
                return ControlGroup(Path(mount_point) / group.relative_to(root), interface)
    return None


def _lines(path: Path) -> list[str]:
    """Lines of a file that names folders: the names are bytes and need not be valid text."""
    return [line for line in os.fsdecode(path.read_bytes()).split("\n") if line]


def _remove_left_over(parent: Path, proc: Path) -> None:
    """Remove the empty groups of launchers that were killed."""
    for folder in parent.glob(f"{_NAME}*"):
        if not (proc / folder.name.removeprefix(_NAME)).exists():
            with suppress(OSError):
                folder.rmdir()
