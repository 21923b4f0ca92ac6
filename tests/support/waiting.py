"""Operators after which a step on an accelerator would wait for it."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Results of these have sizes that depend on values, or are numbers: a step on an accelerator would wait for them.
WAITING = ("nonzero", "unique", "bincount", "_local_scalar_dense", "item", "equal", "masked_select", "is_nonzero")


class Waits(TorchDispatchMode):
    """Collects the operators after which a step would wait for its accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.called: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.called.add(name)
        if name.startswith(WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))
