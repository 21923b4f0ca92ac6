"""The device that a plan is made for, while its step runs on fake tensors of the CPU.

What a step does to the device that it runs on, it does to this one then: whoever asks which kind of device it is, or
tells an allocator something, asks here first.
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
    """What a step may tell the allocator of its device. Here nothing happens."""

    def fix_mmap_threshold(self, threshold_bytes: int) -> None:
        """From now on each storage of at least this size gets a mapping of its own (glibc)."""

    def trim(self) -> None:
        """Give free memory back to the system."""


class PlannedWork:
    """Told of every operator in a plan, and of what a step does that no operator shows. Here nothing is counted.

    An iteration is one of a loop that a plan shortens, so that those left out can be counted too. Such loops can be
    nested.
    """

    def on_operator(
        self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]
    ) -> None:
        """``operator`` has made ``results``, the leaves of what it returned."""

    def begin_iteration(self) -> None:
        """An iteration begins that runs."""

    def end_iteration(self) -> object:
        """It has ended. Returns the argument of :meth:`repeat_iteration` for equal iterations."""
        return None

    def repeat_iteration(self, finished: object) -> None:
        """An iteration is left out that is equal to a finished one."""

    def on_file(self, size_bytes: int) -> None:
        """A step would read or write so many bytes of a file."""


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device that need not be there."""

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
    """The device that is being planned for; None where a step runs in earnest."""
    return _planned.get()


def fused_dropout(probability: float) -> float:
    """The dropout of a call to fused attention: ``probability``, but 0 in a plan for CUDA.

    CUDA's fused attention draws dropout without a tensor for it. In a plan the CPU's operator takes its place, which
    would make one.
    """
    planned = planned_device()
    return 0.0 if planned and planned.type == "cuda" else probability


def once_in_plan(items: Iterable[Item], *, key: Callable[[Item], Hashable] = lambda item: None) -> Iterator[Item]:
    """``items``; in a plan only the first of each ``key``, and whoever counts rounds is told of the others.

    For a loop whose rounds take the same memory if their keys are the same, and leave none behind: what the others
    would take has been taken and given back.
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
    """``function``; in a plan it is called once for each ``key``, and the others get a copy of that result.

    For a loop whose rounds each leave a result behind: :func:`once_in_plan` would leave none for most of them.
    """
    planned = planned_device()
    if planned is None:
        return function
    results: dict[Hashable, tuple[Result, object]] = {}

    def recall(item: Item) -> Result:
        kind = key(item)
        if kind in results:
            result, finished = results[kind]
            planned.work.repeat_iteration(finished)
            return copy(result)
        planned.work.begin_iteration()
        result = function(item)
        results[kind] = result, planned.work.end_iteration()
        return result

    return recall
