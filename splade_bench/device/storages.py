"""Live tensor bytes, by what they are for and by the part of a step that is under way.

Counts the storages that torch's operators make, each once, from its first tensor to the moment it is freed. The same on
every machine and in every run, and it works on fake tensors as on real ones.

Does not see: workspaces inside operators, the allocator's rounding and its free memory, and the Python runtime.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    """The one whose result made it the peak."""
    by_phase: Mapping[str, int]
    """The most that was live in each phase, in the order in which the phases came."""


class StorageListener(Protocol):
    """Told of every storage that comes and goes, as an allocator is."""

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""

    def on_allocate(self, storage: int, size_bytes: int, operator: str) -> None:
        """A storage has come; ``operator`` made it, or none that was watched."""

    def on_free(self, storage: int) -> None:
        """It has gone; its number may be given again."""


class OperatorListener(Protocol):
    """Told of every operator that ran."""

    def on_operator(
        self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]
    ) -> None:
        """``operator`` has made ``results``, the leaves of what it returned."""


@dataclass(slots=True)
class _Storage:
    """What is known of a storage; ``category`` may be found out long after it is gone."""

    size_bytes: int
    phase: str
    category: Category | None
    reference: object = None


class LiveStorages(TorchDispatchMode):
    """Watches every operator while it is entered; a ``TrainObserver`` of the run that it watches.

    Categories: *parameters* and *inputs* are what was announced with :meth:`add`; *gradients* are the ``.grad`` of
    parameters; *optimizer* is what an optimizer step makes and leaves behind; *logits* have a text's tokens and the
    vocabulary as their last two sizes, *head* are other tensors with the vocabulary as the last; *activations* are made
    in a forward pass and still there when its backward begins; *temporaries* are the rest.

    It slows what it watches: use a run of its own, and time another.

    Args:
        vocab_size: size of the vocabulary, by which logits and the head's tensors are known; None: they are not told
            apart.
        listener: told of every storage that comes and goes.
        operators: told of every operator.
    """

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        listener: StorageListener | None = None,
        operators: OperatorListener | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocab_size = vocab_size
        self._listener = listener
        self._operators = operators
        self._phase = "setup"
        self._live: dict[int, _Storage] = {}  # by the address of the storage, which is used again once it is freed
        self._live_bytes = 0
        self._parameters: list[Tensor] = []
        self._peak_bytes = 0
        self._peak: tuple[_Storage, ...] = ()
        self._peak_at = ("", "")
        self._by_phase: dict[str, int] = {}

    def add(self, tensors: Iterable[Tensor], category: Category) -> None:
        """Count tensors that were there before; the gradients of ``parameters`` are looked up from now on."""
        for tensor in tensors:
            if category == "parameters":
                self._parameters.append(tensor)
            self._count(tensor, category)
        self._note_peak("")

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""
        self._settle(phase)
        self._phase = phase
        self._by_phase[phase] = max(self._by_phase.get(phase, 0), self._live_bytes)
        if self._listener:
            self._listener.on_phase(phase)

    def on_step_end(self, state: object, loss: object) -> None:
        """An optimizer step is done."""
        self._settle("")

    @property
    def live_bytes(self) -> int:
        """Live now."""
        return self._live_bytes

    def peak(self) -> LivePeak:
        """The largest moment so far."""
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
        if func is _DEVICE:  # asked more often of a fake tensor than anything is made
            return args[0].fake_device
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        leaves = tree_leaves(results)
        if self._operators:  # first: what it takes for itself is there when its results are
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
            known = _Storage(size_bytes, self._phase, category or self._by_shape(tensor))
            known.reference = weakref.ref(storage, self._forget(address))
            self._live[address] = known
            self._live_bytes += size_bytes
            self._tell_of(address, size_bytes, operator)
            return
        if size_bytes != known.size_bytes:  # resized
            self._live_bytes += size_bytes - known.size_bytes
            known.size_bytes = size_bytes
            if self._listener:
                self._listener.on_free(address)
            self._tell_of(address, size_bytes, operator)
        if known.category in (None, "head"):  # a product makes logits as [B * L, V] and then views them as [B, L, V]
            category = category or self._by_shape(tensor)
        known.category = category or known.category

    def _by_shape(self, tensor: Tensor) -> Category | None:
        if self._phase == "optimizer_step" or not tensor.dim() or tensor.shape[-1] != self._vocab_size:
            return None  # a moment of the decoder's bias has that size too
        return "logits" if tensor.dim() > 2 and tensor.shape[-2] > 1 else "head"

    def _forget(self, address: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            gone = self._live.pop(address, None)
            if gone is not None:
                self._live_bytes -= gone.size_bytes
                if self._listener:
                    self._listener.on_free(address)

        return forget

    def _tell_of(self, address: int, size_bytes: int, operator: object) -> None:
        if self._listener:
            self._listener.on_allocate(address, size_bytes, str(operator))

    def _note_peak(self, operator: object) -> None:
        if self._live_bytes > self._by_phase.get(self._phase, 0):
            self._by_phase[self._phase] = self._live_bytes
        if self._live_bytes > self._peak_bytes:
            self._peak_bytes = self._live_bytes
            self._peak = tuple(self._live.values())
            self._peak_at = (self._phase, str(operator))

    def _settle(self, next_phase: str) -> None:
        """Say what the storages are that outlived the phase that made them."""
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
