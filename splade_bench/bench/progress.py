"""What a cell does while somebody waits for it, and the line that says so. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from splade_bench.units import format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The part of its measurement that a cell is in; in the training also how far it is."""

    cell_id: str
    doing: str
    """In words: ``starts``, ``trains``, ``evaluates``, ``heap pass``."""
    step: int = 0
    """Optimizer steps done; 0 outside the training and before the first."""
    steps: int = 0
    loss: float | None = None
    """Of the last optimizer step; None if it is not finite."""
    rss_bytes: int | None = None
    """Resident memory after it."""
    left_s: float | None = None
    """Until the end of the training."""

    @property
    def line(self) -> str:
        """The progress as one line."""
        if not self.step:
            return f"{self.cell_id}  {self.doing}"
        parts = [self.cell_id, f"step {self.step} of {self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.rss_bytes:
            parts.append(f"memory {format_bytes(self.rss_bytes)}")
        if self.left_s is not None:
            parts.append(f"{format_seconds(self.left_s)} left")
        return "  ".join(parts)


OnProgress: TypeAlias = Callable[[Progress | None], None]
"""Called with each progress, and with None when nothing runs any more."""


def show_nothing(progress: Progress | None) -> None:
    """The callback of a run that nobody watches."""


class CellProgress:
    """Makes the progress of one cell from what its run does and from its worker's ``progress`` events."""

    def __init__(self, cell_id: str, on_progress: OnProgress) -> None:
        self._cell_id = cell_id
        self._on_progress = on_progress
        self._start_s = 0.0

    def show(self, doing: str) -> None:
        """The cell is in the part ``doing`` now."""
        self._on_progress(Progress(cell_id=self._cell_id, doing=doing))

    def start_training(self) -> None:
        """The time until the end of the training is estimated from here on."""
        self.show("trains")
        self._start_s = time.monotonic()

    def on_step(self, values: Mapping[str, Any]) -> None:
        """The values of a ``progress`` event."""
        done, steps = values["step"], values["steps"]
        left_s = (time.monotonic() - self._start_s) / done * (steps - done)
        self._on_progress(Progress(cell_id=self._cell_id, doing="trains", **values, left_s=left_s))
