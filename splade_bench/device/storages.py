"""Live tensor bytes, by category and by phase of the step.

Counts the storages that torch's operators make, each once, from its first tensor until it is freed. The count is the
same on every machine and in every run, and for fake tensors.

Does not see: workspaces inside operators, the allocator's rounding and its free memory, and the Python runtime.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splade_bench.device.planned import PlannedWork

Category: TypeAlias = Literal[
    "parameters", "gradients", "optimizer", "activations", "logits", "head", "temporaries", "inputs"
]
CATEGORIES: Sequence[Category] = get_args(Category)
_DEVICE = torch.ops.prim.device.default


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePeak:
    """The moment with most live bytes."""

    peak_bytes: int
    by_category: Mapping[Category, int]
    phase: str
    operator: str
    """Its result made the peak."""
    by_phase: Mapping[str, int]
    """Most live bytes in each phase, in the order of the phases."""


class StorageListener(Protocol):
    """Gets every storage that is allocated or freed, as an allocator does."""

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""

    def on_step_end(self) -> None:
        """An optimizer step is done."""

    def on_allocate(self, storage: int, size_bytes: int, operator: str) -> None:
        """A storage was allocated by ``operator``; the empty string if that was not watched."""

    def on_free(self, storage: int) -> None:
        """It was freed; its number may come again."""


@dataclass(slots=True)
class _Storage:
    """What is known of a storage; its category may become known after it is freed."""

    phase: str
    size_bytes: int = 0
    category: Category | None = None
    reference: object = None


class LiveStorages(TorchDispatchMode):
    """Watches every operator while it is entered, as a ``TrainObserver`` of the same run.

    Categories: *parameters* and *inputs* were given to :meth:`add`; *gradients* are the ``.grad`` of parameters;
    *optimizer* is what an optimizer step makes and keeps; *logits* have a text's tokens and the vocabulary as their
    last two sizes, *head* are other tensors with the vocabulary as the last; *activations* are made in a forward pass
    and kept until its backward begins; *temporaries* are the rest.

    It slows the run down: measure time in another run.

    Args:
        vocab_size: by which logits and the head's tensors are recognised; None: they are not.
        listener: gets every storage.
        operators: gets every operator.
    """

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        listener: StorageListener | None = None,
        operators: PlannedWork | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocab_size = vocab_size
        self._listener = listener
        self._operators = operators
        self._phase = "setup"
        self._live: dict[int, _Storage] = {}  # by the storage's address, which may come again once it is freed
        self.live_bytes = 0
        self._parameters: list[Tensor] = []
        self._peak_bytes = 0
        self._peak: tuple[_Storage, ...] = ()
        self._peak_at = ("", "")
        self._by_phase: dict[str, int] = {}

    def add(self, tensors: Iterable[Tensor], category: Category) -> None:
        """Count tensors that already exist. The ``.grad`` of ``parameters`` will be *gradients*."""
        for tensor in tensors:
            if category == "parameters":
                self._parameters.append(tensor)
            self._count(tensor, category)
        self._note_peak("")

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""
        self._settle(phase)
        self._phase = phase
        self._by_phase[phase] = max(self._by_phase.get(phase, 0), self.live_bytes)
        if self._listener:
            self._listener.on_phase(phase)

    def on_step_end(self, state: object, loss: object) -> None:
        """An optimizer step is done."""
        self._settle("")
        if self._listener:
            self._listener.on_step_end()

    def peak(self) -> LivePeak:
        """The peak so far."""
        self._settle("")
        sizes: Counter[Category] = Counter()
        for storage in self._peak:
            sizes[storage.category or "temporaries"] += storage.size_bytes
        phase, operator = self._peak_at
        return LivePeak(
            peak_bytes=self._peak_bytes,
            by_category={category: sizes[category] for category in CATEGORIES if sizes[category]},
            phase=phase,
            operator=operator,
            by_phase=dict(self._by_phase),
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE:  # the most frequent call of fake tensors
            return args[0].fake_device
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        leaves = tree_leaves(results)
        if self._operators:  # first: its own workspace exists before its results
            self._operators.on_operator(func, args, kwargs, leaves)
        for result in leaves:
            if isinstance(result, Tensor):
                self._count(result, None, func)
        self._note_peak(func)
        return results

    def _count(self, tensor: Tensor, category: Category | None, operator: object = "") -> None:
        storage = _storage_of(tensor)
        if storage is None or not (size_bytes := storage.nbytes()):
            return
        address = storage._cdata
        known = self._live.get(address)
        if known is None:
            known = self._live[address] = _Storage(self._phase)
            known.reference = weakref.ref(storage, partial(self._forget, address))
        if size_bytes != known.size_bytes:
            if self._listener:
                if known.size_bytes:  # resized
                    self._listener.on_free(address)
                self._listener.on_allocate(address, size_bytes, str(operator))
            self.live_bytes += size_bytes - known.size_bytes
            known.size_bytes = size_bytes
        # A moment of the decoder's bias has the size of the vocabulary too.
        of_head = self._phase != "optimizer_step" and tensor.dim() > 0 and tensor.shape[-1] == self._vocab_size
        # A product makes logits as [B * L, V]; they become [B, L, V] in a view.
        if category is None and of_head and known.category in (None, "head"):
            category = "logits" if tensor.dim() > 2 and tensor.shape[-2] > 1 else "head"
        known.category = category or known.category

    def _forget(self, address: int, _: object) -> None:
        freed = self._live.pop(address)
        self.live_bytes -= freed.size_bytes
        if self._listener:
            self._listener.on_free(address)

    def _note_peak(self, operator: object) -> None:
        if self.live_bytes > self._by_phase.get(self._phase, 0):
            self._by_phase[self._phase] = self.live_bytes
        if self.live_bytes > self._peak_bytes:
            self._peak_bytes = self.live_bytes
            self._peak = tuple(self._live.values())
            self._peak_at = (self._phase, str(operator))

    def _settle(self, next_phase: str) -> None:
        """Find the categories of storages that outlived the phase that made them."""
        for parameter in self._parameters:
            if parameter.grad is not None and (storage := _storage_of(parameter.grad)) is not None:
                known = self._live.get(storage._cdata)
                if known is not None:
                    known.category = "gradients"
        for known in self._live.values():
            if known.category is not None:
                continue
            if known.phase == "optimizer_step" and next_phase != "optimizer_step":
                known.category = "optimizer"
            elif known.phase == "forward" and next_phase in ("loss", "backward"):
                known.category = "activations"
            elif known.phase == "batching":
                known.category = "inputs"


def _storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return None
