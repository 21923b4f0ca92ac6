"""The device that a plan is made for, while its step runs on fake tensors of the CPU.

What a step does to the device that it runs on, it does to this one then: whoever asks which kind of device it is, or
tells an allocator something, asks here first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class PlannedAllocator(Protocol):
    """What a step may tell the allocator of its device."""

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """From now on storages of this size have mappings of their own (glibc)."""

    def trim(self) -> None:
        """Give free memory back to the system."""


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device that need not be there."""

    type: str
    allocator: PlannedAllocator


_planned: ContextVar[PlannedDevice | None] = ContextVar("planned_device", default=None)


@contextmanager
def planning_for(device: PlannedDevice) -> Iterator[None]:
    """Inside the block, in this thread, steps run as they would on ``device``."""
    token = _planned.set(device)
    try:
        yield
    finally:
        _planned.reset(token)


def planned_device() -> PlannedDevice | None:
    """The device that is being planned for; None where a step runs in earnest."""
    return _planned.get()


def alike(items: Iterable[Item], *, key: Callable[[Item], Hashable] = lambda item: None) -> Iterator[Item]:
    """``items``; in a plan only the first of each ``key``.

    For a loop whose rounds take the same memory if their keys are the same, and leave none behind: what the others
    would take has been taken and given back.
    """
    planned = planned_device() is not None
    seen = set()
    for item in items:
        if planned:
            kind = key(item)
            if kind in seen:
                continue
            seen.add(kind)
        yield item
