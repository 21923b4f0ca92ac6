"""The device that a plan is made for, while the step runs on fake tensors of the CPU.

In a plan, everything that a step asks of its device goes to this one: which kind it is, its allocator, its files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class PlannedAllocator:
    """What a step tells the allocator of its device. This one does nothing."""

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """From now on each storage of at least this size gets its own mapping (glibc)."""

    def trim(self) -> None:
        """Give free memory back to the system."""


class PlannedWork:
    """Counts the work of a plan: its operators, and what no operator shows. This one counts nothing.

    Iterations are those of loops that a plan shortens, so that the ones left out count too. Loops can be nested.
    """

    def on_operator(
        self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]
    ) -> None:
        """``operator`` has made ``results``, the leaves of what it returned."""

    def begin_iteration(self) -> None:
        """An iteration begins."""

    def end_iteration(self) -> object:
        """It has ended; returns the argument of :meth:`repeat_iteration` for equal iterations."""
        return None

    def repeat_iteration(self, finished: object) -> None:
        """An iteration equal to a finished one is left out."""

    def on_file(self, size_bytes: int) -> None:
        """A step would read or write so many bytes of a file."""


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device, which this machine need not have."""

    type: str
    allocator: PlannedAllocator
    work: PlannedWork = field(default_factory=PlannedWork)


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
    """The device of the current plan; None outside a plan."""
    return _planned.get()


def once_in_plan(items: Iterable[Item], *, key: Callable[[Item], Hashable] = lambda item: None) -> Iterator[Item]:
    """``items``; in a plan, only the first of each ``key``, while the work counter multiplies it.

    For a loop whose iterations take the same memory if their keys are equal, and free all of it.
    """
    planned = planned_device()
    if planned is None:
        yield from items
        return
    finished: dict[Hashable, object] = {}
    for item in items:
        kind = key(item)
        if kind in finished:
            planned.work.repeat_iteration(finished[kind])
            continue
        planned.work.begin_iteration()
        yield item
        finished[kind] = planned.work.end_iteration()


def memoized_in_plan(
    function: Callable[[Item], Result], *, key: Callable[[Item], Hashable], copy: Callable[[Result], Result]
) -> Callable[[Item], Result]:
    """``function``; in a plan it is called once for each ``key``, and later calls get a copy of its result.

    For a loop like that of :func:`once_in_plan` whose iterations each leave a result behind.
    """
    planned = planned_device()
    if planned is None:
        return function
    results: dict[Hashable, tuple[Result, object]] = {}

    def memoized(item: Item) -> Result:
        kind = key(item)
        if kind in results:
            result, finished = results[kind]
            planned.work.repeat_iteration(finished)
            return copy(result)
        planned.work.begin_iteration()
        result = function(item)
        results[kind] = result, planned.work.end_iteration()
        return result

    return memoized
