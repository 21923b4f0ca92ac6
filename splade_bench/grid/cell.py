"""A cell: one training run at one point of the grid, in a process of its own."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from splade_bench.config import DeviceName, MixedPrecision, TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.memory_modes import memory_mode
from splade_bench.units import exact_size

_REFERENCE_BATCH_SIZE = 8
# What may train a cell: this package, or a peer of splade_bench.worker.peers.
OWN_TRAINER = "splade-bench"
ARTICLE_TRAINER = "article-trainer"
TRAINERS = (OWN_TRAINER, ARTICLE_TRAINER, "SpladeLoss", "SpladePooling-chunked", "CachedSpladeLoss")
# The memory mode in which peers are compared: of a mode they use the padding and the optimizer.
PEER_MODE = "standard+dynamic-padding"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training run at one point of the grid, as data."""

    workload: str
    device: DeviceName
    batch_size: int
    gradient_accumulation_steps: int
    memory_mode: str
    max_steps: int | None = None
    seed: int = 42
    attention_dropout: float = 0.0
    """The model's dropout on attention probabilities, which a technique may remove."""
    mixed_precision: MixedPrecision = "no"
    memory_limit_bytes: int | None = None
    """Limit on resident memory, the runtime included, as on a smaller machine."""
    memory_budget_bytes: int | None = None
    """Settings are chosen by fit for this budget: the fastest exact ones whose plan is within it."""
    trainer: str = OWN_TRAINER
    """What trains: this package, or a peer (which uses the padding and the optimizer of its memory mode)."""
    trainer_size: int | None = None
    """Texts per mini-batch or tokens per chunk, for a peer with such a setting."""
    processes: int = 1
    """Processes that train it together; the batch size is that of all of them."""
    busy_processes: int = 0
    """Processes that compute all the time beside the cell, as on a machine in use."""
    round: int = 0
    """Which of several equal runs this is."""

    @property
    def cell_id(self) -> str:
        """Name of the grid point, the same for every seed and round: ``tiny-cpu-b8-a4-memory-efficient``."""
        parts = [self.workload, self.device, f"b{self.batch_size}", f"a{self.gradient_accumulation_steps}"]
        if self.trainer != OWN_TRAINER:
            parts.append(self.trainer)
        if self.trainer_size is not None:
            parts.append(str(self.trainer_size))
        if self.trainer == OWN_TRAINER or self.memory_mode != PEER_MODE:
            parts.append(self.memory_mode)
        if self.attention_dropout:
            parts.append(f"dropout{self.attention_dropout}")
        if self.mixed_precision != "no":
            parts.append(self.mixed_precision)
        if self.memory_limit_bytes is not None:
            parts.append(f"limit{exact_size(self.memory_limit_bytes)}")
        if self.memory_budget_bytes is not None:
            parts.append(f"fit{exact_size(self.memory_budget_bytes)}")
        if self.processes > 1:
            parts.append(f"processes{self.processes}")
        if self.busy_processes:
            parts.append(f"busy{self.busy_processes}")
        return "-".join(parts)

    def require_trainable(self) -> None:
        """Refuse what only one process can do.

        Raises:
            ConfigError: several processes cannot train this cell.
        """
        if self.processes == 1:
            return
        if self.device == "mps":
            raise ConfigError(f"--processes {self.processes}: MPS trains in one process; leave --processes out")
        if self.trainer != OWN_TRAINER:
            raise ConfigError(f"processes {self.processes}: the trainer {self.trainer} runs in one process")
        if self.memory_budget_bytes is not None:
            raise ConfigError(f"processes {self.processes}: fit chooses settings for one process; give no budget")

    @property
    def train_config(self) -> TrainConfig:
        """Its settings; with a memory budget, those that fit starts from."""
        workload = WORKLOADS[self.workload]
        effective_batch_size = self.batch_size * self.gradient_accumulation_steps
        return TrainConfig(
            max_length=workload.max_length,
            batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            epochs=workload.epochs,
            max_steps=self.max_steps,
            # Adam's square-root scaling rule (Malladi et al., 2022). Without it, a cell with a larger effective batch
            # would take fewer steps at the same rate and learn less: the grid would compare learning rates.
            learning_rate=workload.learning_rate * math.sqrt(effective_batch_size / _REFERENCE_BATCH_SIZE),
            mixed_precision=self.mixed_precision,
            seed=self.seed,
            regularized_documents=workload.regularized_documents,
            similarity=workload.similarity,
            memory=memory_mode(self.memory_mode),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
