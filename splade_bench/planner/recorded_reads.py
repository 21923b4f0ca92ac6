"""What an architecture's own code reads of its tensors, which have no values in a plan: a small real model says it.

Some architectures of transformers check or branch on a value, such as whether a text has tokens with global attention,
or select texts by a mask. A plan proves a small model of the architecture first. What that model reads is recorded by
the line of code that reads it, and in the plan the same line reads the same. A read by this package's code is never
recorded: it has to go through :mod:`splade_bench.device.reads`.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

_Line: TypeAlias = tuple[str, int]
_READ = torch.ops.aten._local_scalar_dense.default
_SELECT = torch.ops.aten.index.Tensor
_LIBRARY = str(Path(transformers.__file__).parent)


class RecordedReads(TorchDispatchMode):
    """While it is entered, notes by line what transformers' code reads: numbers, and shares that a mask selects."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: dict[_Line, list[float]] = defaultdict(list)
        self.shares: dict[_Line, list[float]] = defaultdict(list)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is _READ and (line := _reading_line()):
            self.numbers[line].append(result)
        elif func is _SELECT and (mask := _only_mask(args)) is not None and (line := _reading_line()):
            self.shares[line].append(len(result) / mask.numel())
        return result


class _AnsweredReads(TorchDispatchMode):
    """While it is entered, over fake tensors, a line reads what it read when it was recorded.

    Of numbers it reads the smallest: with short texts a check such as ``longest <= width`` must hold. Masks select the
    recorded shares in their order, again and again: a layer may call a line several times.
    """

    def __init__(self, reads: RecordedReads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = {line: min(numbers) for line, numbers in reads.numbers.items()}
        self._shares = {line: itertools.cycle(shares) for line, shares in reads.shares.items()}
        self._selected: MutableMapping[Tensor, int] = WeakIdKeyDictionary()  # a backward pass has the same masks

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:  # a number that is made of shapes has a value
            line = _reading_line()
            if func is not _READ or line not in self._numbers:
                raise
            return self._numbers[line]
        except DynamicOutputShapeException:
            mask = _only_mask(args) if func is _SELECT else None
            if mask is None or (count := self._count(mask)) is None:
                raise
            return args[0].new_empty(count, *args[0].shape[mask.dim() :])

    def _count(self, mask: Tensor) -> int | None:
        if mask not in self._selected:
            line = _reading_line()
            if line not in self._shares:
                return None
            self._selected[mask] = round(next(self._shares[line]) * mask.numel())
        return self._selected[mask]


_known: ContextVar[RecordedReads | None] = ContextVar("recorded_reads", default=None)


@contextmanager
def knowing(reads: RecordedReads) -> Iterator[None]:
    """Inside the block, in this thread, plans know these reads."""
    token = _known.set(reads)
    try:
        yield
    finally:
        _known.reset(token)


def answered_reads() -> AbstractContextManager[object]:
    """Inside the block, over fake tensors, lines read what :func:`knowing` knows of them."""
    reads = _known.get()
    return _AnsweredReads(reads) if reads and (reads.numbers or reads.shares) else nullcontext()


def _only_mask(args: Sequence[Any]) -> Tensor | None:
    """The mask of ``tensor[mask]``."""
    indices = args[1]
    return indices[0] if len(indices) == 1 and indices[0].dtype == torch.bool else None


def _reading_line() -> _Line | None:
    """The line of transformers' code that the current operator was called from."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_LIBRARY):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None
