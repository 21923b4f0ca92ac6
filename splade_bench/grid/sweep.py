"""The axes of a grid, and the profiles: named sweeps for ``--profile``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from typing_extensions import Self

from splade_bench.config import DeviceName
from splade_bench.errors import ConfigError
from splade_bench.fields import option, require_range
from splade_bench.grid.cell import Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.memory_modes import MEMORY_MODES, memory_mode

_AXES = frozenset({"batch_sizes", "gradient_accumulation_steps", "memory_modes"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The axes of a grid."""

    workload: str = "tiny"
    devices: Sequence[DeviceName] = ("cpu",)
    batch_sizes: Sequence[int] = (8, 16)
    gradient_accumulation_steps: Sequence[int] = (1, 4)
    memory_modes: Sequence[str] = ("standard", "article", "memory-efficient")
    processes: Sequence[int] = (1,)
    """How many train a cell together; each cell comes with each of these numbers."""
    max_steps: int | None = None
    seeds: Sequence[int] = (42,)
    rounds: int = 1
    """Equal runs of each cell, in turn."""
    memory_passes: Sequence[str] | None = None
    """Unless ``--memory-passes`` says which; None: the default ones."""
    further: Sweep | None = None
    """Cells that come after those of this grid, which need not be a product with them."""

    def __post_init__(self) -> None:
        if self.workload not in WORKLOADS:
            raise ConfigError(f"--workload {self.workload}: no such workload; choose from {', '.join(WORKLOADS)}")
        for name in self.memory_modes:
            memory_mode(name, option="--memory-modes")
        require_range(
            self, "max_steps", "rounds", "batch_sizes", "gradient_accumulation_steps", "processes", at_least=1
        )
        for name in ("batch_sizes", "gradient_accumulation_steps", "memory_modes", "processes", "seeds"):
            _require_different(name, getattr(self, name))
        for cell in self.cells():
            cell.require_trainable()

    def cells(self) -> Iterator[Cell]:
        """Every combination. Modes come in turn, so that those to compare are measured close in time.

        Their order alternates from round to round, and from seed to seed: a machine that gets slower slows them alike.
        """
        rounds = range(1, self.rounds + 1) if self.rounds > 1 else (0,)
        for turn, (device, round_number, seed) in enumerate(product(self.devices, rounds, self.seeds)):
            modes = self.memory_modes[::-1] if turn % 2 else self.memory_modes
            points = product(self.batch_sizes, self.gradient_accumulation_steps, self.processes, modes)
            for batch_size, accumulation, processes, mode in points:
                yield Cell(
                    workload=self.workload,
                    device=device,
                    batch_size=batch_size,
                    gradient_accumulation_steps=accumulation,
                    processes=processes,
                    memory_mode=mode,
                    max_steps=self.max_steps,
                    seed=seed,
                    round=round_number,
                )
        if self.further:
            yield from self.further.cells()

    def changed(self, **changes: Any) -> Self:
        """The sweep with other values in these fields.

        A new axis of the grid replaces the whole grid: it is then the product of its axes, without further cells.
        """
        further = None if self.further is None or changes.keys() & _AXES else self.further.changed(**changes)
        return replace(self, **changes, further=further)


def _require_different(name: str, values: Sequence[object]) -> None:
    """Raise a :class:`ConfigError` if an axis has a value twice: its cells would be one cell that runs twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ConfigError(f"{option(name)}: has {value} twice; name it once, and repeat cells with --rounds")


PROFILES: Mapping[str, Sweep] = MappingProxyType(
    {
        "smoke": Sweep(
            batch_sizes=(8,),
            gradient_accumulation_steps=(1,),
            memory_modes=("standard", "memory-efficient"),
            max_steps=10,
            memory_passes=(),
        ),
        # For the gate: token ids drawn by seed, all of one length, so that live bytes are equal on every machine.
        "gate": Sweep(
            workload="gate",
            batch_sizes=(4,),
            # The first batch of an optimizer step finds no gradients, the second one those of the first.
            gradient_accumulation_steps=(2,),
            memory_modes=("standard", "memory-efficient", "minimal-memory"),
            max_steps=3,
            memory_passes=("live",),
        ),
        # Small enough to wait for: every mode at one grid point, in two rounds, because their times are compared; then
        # gradient accumulation at the same effective batch, once.
        "default": Sweep(
            workload="tiny-short",
            batch_sizes=(16,),
            gradient_accumulation_steps=(1,),
            memory_modes=tuple(MEMORY_MODES),
            rounds=2,
            memory_passes=(),
            further=Sweep(
                workload="tiny-short",
                batch_sizes=(4,),
                gradient_accumulation_steps=(1, 4),
                memory_modes=("standard", "memory-efficient"),
            ),
        ),
        # Its seeds are its rounds.
        "full": Sweep(batch_sizes=(2, 4, 8, 16), memory_modes=tuple(MEMORY_MODES), seeds=(1, 2, 3)),
    }
)
