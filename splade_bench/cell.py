"""The grid: workloads, cells and sweeps, as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

from splade_bench.config import MEMORY_MODES, DeviceName, MixedPrecision, TrainConfig, memory_mode
from splade_bench.errors import ConfigError
from splade_bench.units import format_bytes

_REFERENCE_BATCH_SIZE = 8
# Who may train a cell: this package, or one of those that it is compared with (splade_bench.bench.peers).
OWN_TRAINER = "splade-bench"
TRAINERS = (OWN_TRAINER, "article", "SpladeLoss", "SpladePooling-chunked", "CachedSpladeLoss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What every cell of a sweep trains: the same model on the same number of queries."""

    model_name: str
    corpus: Literal["docstrings", "synthetic"]
    """The embedded corpus, or random token ids (which have no retrieval figures)."""
    max_length: int
    queries: int
    """Training queries that each cell sees, unless --max-steps says otherwise."""
    learning_rate: float
    """At 8 queries per optimizer step; other cells scale it by the square root of theirs."""
    ranked: bool = True
    """Whether the held-out queries are ranked against the whole corpus before and after training."""
    lengths: Literal["full", "real"] = "full"
    """Tokens of synthetic texts: all at max_length, or queries of 4 to 20 and documents of about 75."""
    dropout: float = 0.0
    """The model's dropout on hidden states; that on attention is the cell's."""
    memory_passes: Sequence[str] | None = None
    """Which peaks are taken too, each in a process of its own; None: as the run's options say."""
    compares_trainers: bool = False
    """Every trainer loads the same weights from the same folder, and an optimizer step on a few tokens comes first, so
    that AdamW's moments are there in those that are timed."""


def _compared(model_name: str, *, max_length: int, lengths: Literal["full", "real"] = "full") -> Workload:
    return Workload(
        model_name=model_name,
        corpus="synthetic",
        max_length=max_length,
        queries=1,
        learning_rate=2e-5,
        ranked=False,
        lengths=lengths,
        dropout=0.1,
        memory_passes=(),
        compares_trainers=True,
    )


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "tiny": Workload(model_name="tiny", corpus="docstrings", max_length=48, queries=1600, learning_rate=8e-4),
        "mini": Workload(model_name="mini", corpus="docstrings", max_length=128, queries=96, learning_rate=1e-4),
        "base": Workload(
            model_name="base", corpus="docstrings", max_length=256, queries=16, learning_rate=5e-5, ranked=False
        ),
        # BERT-tiny's size at 128 full tokens: where the head is most of the work.
        "head": Workload(
            model_name="bert-tiny", corpus="synthetic", max_length=128, queries=32, learning_rate=1e-4, ranked=False
        ),
        # Where memory is followed as texts grow.
        **{
            f"length-{max_length}": Workload(
                model_name="bert-tiny",
                corpus="synthetic",
                max_length=max_length,
                queries=12,
                learning_rate=1e-4,
                ranked=False,
                memory_passes=("live",),
            )
            for max_length in (64, 128, 256, 512)
        },
        # Where memory is gated: no corpus and no vocabulary, which differ between interpreters.
        "gate": Workload(
            model_name="bert-tiny",
            corpus="synthetic",
            max_length=64,
            queries=24,
            learning_rate=1e-4,
            ranked=False,
            dropout=0.1,
        ),
        # Where each technique by itself is measured, with dropout so that those which are about it have work: what it
        # does to quality on a small model, and to memory and time on one that is large enough for them.
        "ablation-mini": _compared("mini", max_length=256, lengths="real"),
        "ablation": Workload(
            model_name="tiny",
            corpus="docstrings",
            max_length=64,
            queries=512,
            learning_rate=8e-4,
            dropout=0.1,
            memory_passes=(),
        ),
        # Where a mode's quality is held against another's, seed by seed.
        "quality": Workload(
            model_name="tiny", corpus="docstrings", max_length=48, queries=800, learning_rate=8e-4, memory_passes=()
        ),
        # Where the instruments are held to the same figure again and again, and cells to a memory limit.
        **{
            name: Workload(
                model_name="mini",
                corpus="synthetic",
                max_length=128,
                queries=32,
                learning_rate=1e-4,
                ranked=False,
                lengths="real",
                dropout=0.1,
                memory_passes=passes,
            )
            for name, passes in (("repeatability", ("heap", "live", "pinned")), ("memory-limit", ()))
        },
        # Where the planner is held against measurements: sizes and lengths, from few tokens to many.
        **{
            f"plan-{model_name}-{max_length}": Workload(
                model_name=model_name,
                corpus="synthetic",
                max_length=max_length,
                queries=1,
                learning_rate=2e-5,
                ranked=False,
                lengths="full" if max_length < 256 else "real",
                dropout=0.1,
                memory_passes=("live", "plan"),
            )
            for model_name, max_length in product(("bert-tiny", "mini", "base"), (32, 128, 512))
        },
        "base-512": _compared("base", max_length=512),
        "base-256-real": _compared("base", max_length=256, lengths="real"),
        "mini-256": _compared("mini", max_length=256),
        "mini-256-real": _compared("mini", max_length=256, lengths="real"),
        "bert-tiny-128": _compared("bert-tiny", max_length=128),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One grid point, run in a process of its own."""

    workload: str
    device: DeviceName
    batch_size: int
    gradient_accumulation_steps: int
    memory_mode: str
    max_steps: int | None = None
    seed: int = 42
    attention_dropout: float = 0.0
    """Dropout on attention probabilities in the model, before a technique takes it out."""
    mixed_precision: MixedPrecision = "no"
    memory_limit_bytes: int | None = None
    """Resident memory that the process may have, its runtime included: a smaller machine."""
    trainer: str = OWN_TRAINER
    """Who trains: this package, or a peer (of whose memory mode only the padding counts)."""
    trainer_size: int | None = None
    """Texts in a mini-batch or tokens in a chunk, for a peer that has such a setting."""
    round: int = 0
    """Which of several equal runs this is."""

    @property
    def cell_id(self) -> str:
        """Name of the grid point, the same for every seed and round: ``tiny-cpu-b8-a4-memory-efficient``."""
        parts = [
            self.workload,
            self.device,
            f"b{self.batch_size}",
            f"a{self.gradient_accumulation_steps}",
            self.memory_mode if self.trainer == OWN_TRAINER else self.trainer,
        ]
        if self.trainer_size is not None:
            parts.append(str(self.trainer_size))
        if self.attention_dropout:
            parts.append(f"dropout{self.attention_dropout:g}")
        if self.mixed_precision != "no":
            parts.append(self.mixed_precision)
        if self.memory_limit_bytes is not None:
            parts.append(f"limit{format_bytes(self.memory_limit_bytes).replace(' ', '')}")
        return "-".join(parts)

    @property
    def train_config(self) -> TrainConfig:
        workload = WORKLOADS[self.workload]
        effective_batch_size = self.batch_size * self.gradient_accumulation_steps
        return TrainConfig(
            max_length=workload.max_length,
            batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            epochs=1,
            max_steps=self.max_steps,
            # Adam's square-root scaling rule (Malladi et al., 2022): otherwise a cell with a larger effective batch
            # would learn less from the same queries for want of steps, and the grid would compare learning rates.
            learning_rate=workload.learning_rate * math.sqrt(effective_batch_size / _REFERENCE_BATCH_SIZE),
            mixed_precision=self.mixed_precision,
            seed=self.seed,
            # sentence-transformers regularizes negatives too.
            regularized_documents="all" if workload.compares_trainers else "positives",
            memory=memory_mode(self.memory_mode),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The axes of a grid."""

    workload: str = "tiny"
    devices: Sequence[DeviceName] = ("cpu",)
    batch_sizes: Sequence[int] = (8, 16)
    gradient_accumulation_steps: Sequence[int] = (1, 4)
    memory_modes: Sequence[str] = ("standard", "article", "memory-efficient")
    max_steps: int | None = None
    seeds: Sequence[int] = (42,)
    rounds: int = 1
    """Equal runs of each cell, in turn."""
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.workload not in WORKLOADS:
            raise ConfigError(f"--workload {self.workload}: no such workload; choose from {', '.join(WORKLOADS)}")
        for name in self.memory_modes:
            memory_mode(name, option="--memory-modes")
        for flag, value in (("--max-steps", self.max_steps), ("--rounds", self.rounds)):
            if value is not None and value < 1:
                raise ConfigError(f"{flag} {value}: must be at least 1")
        for flag, values in (
            ("--batch-sizes", self.batch_sizes),
            ("--gradient-accumulation-steps", self.gradient_accumulation_steps),
        ):
            if min(values) < 1:
                raise ConfigError(f"{flag} {min(values)}: must be at least 1")

    def cells(self) -> Iterator[Cell]:
        """Every combination, modes next to each other: what is compared is measured close in time."""
        rounds = range(1, self.rounds + 1) if self.rounds > 1 else (0,)
        for device, round_number, seed, batch_size, accumulation, mode in product(
            self.devices, rounds, self.seeds, self.batch_sizes, self.gradient_accumulation_steps, self.memory_modes
        ):
            yield Cell(
                workload=self.workload,
                device=device,
                batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                memory_mode=mode,
                max_steps=self.max_steps,
                seed=seed,
                memory_limit_bytes=self.memory_limit_bytes,
                round=round_number,
            )


PROFILES: Mapping[str, Sweep] = MappingProxyType(
    {
        "smoke": Sweep(
            batch_sizes=(8,),
            gradient_accumulation_steps=(1,),
            memory_modes=("standard", "memory-efficient"),
            max_steps=10,
        ),
        # What a gate is held to: token ids by seed, all of one length, so that live bytes are the same everywhere.
        "gate": Sweep(
            workload="gate",
            batch_sizes=(4,),
            gradient_accumulation_steps=(1, 2),
            memory_modes=("standard", "memory-efficient", "minimal-memory"),
            max_steps=3,
        ),
        "default": Sweep(),
        "full": Sweep(batch_sizes=(2, 4, 8, 16), memory_modes=tuple(MEMORY_MODES), seeds=(1, 2, 3)),
    }
)
