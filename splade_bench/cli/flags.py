"""The flags of a training, which ``train``, ``plan`` and ``fit`` share, and how they are parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro

from splade_bench.cli.arguments import given_flags, parse, to_flags
from splade_bench.config import (
    DEFAULT_MEMORY_MODE,
    MEMORY_MODES,
    MEMORY_TECHNIQUES,
    MODEL_PRESETS,
    DeviceName,
    MemoryConfig,
    TrainConfig,
    fields_of_technique,
    memory_mode,
)
from splade_bench.device.devices import resolve_device
from splade_bench.errors import ConfigError
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.candidates import SEARCHED_FIELDS

# Random weights on short texts need these; the defaults of TrainConfig suit a pretrained model. Chosen on the
# development split of the embedded corpus.
PRESET_DEFAULTS: Mapping[str, Any] = {"max_length": 64, "batch_size": 32, "learning_rate": 5e-4}
_DEFAULT_MODEL = "tiny"
_MEMORY_MODE_HELP = "\n".join(
    (
        f"{', '.join(MEMORY_MODES)}, or one of them as MODE+TECHNIQUE or MODE-without-TECHNIQUE. The techniques:",
        *(
            f"{name}: {technique.summary}" + ("" if technique.exact else " Inexact.")
            for name, technique in MEMORY_TECHNIQUES.items()
        ),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where and how to compute."""

    device: DeviceName = "auto"
    """auto takes mps, else cuda, else cpu."""
    force_device: bool = False
    """Make a missing --device an error. Without this flag, a warning names the device that is used instead."""
    memory_mode: Annotated[str, tyro.conf.arg(help=_MEMORY_MODE_HELP)] = DEFAULT_MEMORY_MODE
    memory_efficient: bool = False
    """The same as --memory-mode memory-efficient, the default. The article's commands have this flag."""

    def __post_init__(self) -> None:
        if self.memory_efficient and self.memory_mode != DEFAULT_MEMORY_MODE:
            raise ConfigError(f"--memory-efficient contradicts --memory-mode {self.memory_mode}; give one of them")

    @property
    def memory(self) -> MemoryConfig:
        """The settings of the memory mode."""
        return memory_mode(self.memory_mode)

    def resolve(self) -> torch.device:
        """The device to compute on."""
        return resolve_device(self.device, force=self.force_device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """The files and messages of a training."""

    output_dir: Path = Path("splade-output")
    """Folder for final_model, run.json and the memory timeline."""
    overwrite: bool = False
    """Replace the model of an earlier run in --output-dir."""
    memory_tracking: bool = False
    """Log current and peak memory, and draw memory over time with the phases of the training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """The flags of a training."""

    model_name: str = _DEFAULT_MODEL
    """A preset with random weights (tiny, mini, base), a local model folder, or a Hugging Face Hub id."""
    train_file: Path | None = None
    """JSON list or JSON Lines of {"query", "positive_document", "negative_documents"}. None: the embedded corpus.
    With --negatives-per-query 0, negative_documents may be missing."""
    val_file: Path | None = None
    """A file in the same format. The trained model is evaluated on it."""
    json: bool = False
    """Print one JSON object to standard output. Messages go to standard error."""
    placement: Placement = field(default_factory=Placement)
    """Where and how to compute. Each flag of the "training.memory options" changes one setting of --memory-mode."""
    output: Output = field(default_factory=Output)
    config: Annotated[TrainConfig, tyro.conf.arg(name="training")] = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFlags(TrainFlags):
    """The flags of a training that is planned, not run."""

    budget: str | None = None
    """Memory that the training may take, such as 8GiB.
    None: all memory of this machine or container, or the free memory of the accelerator."""
    lengths: Literal["full", "data"] = "full"
    """Plan for texts of --max-length tokens, or for the widest batch in an epoch of the training data."""
    active_share: float = TRAINED_ACTIVE_SHARE
    """Share of the vectors' entries that are not 0, at most 1.
    With a larger share, the head's backward takes more memory."""
    placement: Placement = field(default_factory=Placement)
    """Where and how the training will compute. --device may name a device that this machine does not have."""


_Command = TypeVar("_Command", bound=TrainFlags)


def parse_train_command(command: type[_Command], arguments: Sequence[str], *, verb: str) -> _Command:
    """Parse the flags of a training. The model and the memory mode decide the defaults of the other flags.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be used.
    """
    given = given_flags(arguments)
    default = train_defaults(
        command, given.get("model_name", _DEFAULT_MODEL), given.get("memory_mode", DEFAULT_MEMORY_MODE)
    )
    return parse(command, arguments, verb=verb, default=default)


def train_defaults(command: type[_Command], model_name: str, mode: str) -> _Command:
    """The meaning of a command line that names only this model and this memory mode."""
    values = PRESET_DEFAULTS if model_name in MODEL_PRESETS else {}
    return command(config=TrainConfig(**values, memory=memory_mode(mode)))


def searched_fields_given(arguments: Sequence[str]) -> frozenset[str]:
    """The fields that ``fit`` would choose but a command line sets, by a flag or by a technique in --memory-mode."""
    given = given_flags(arguments)
    return SEARCHED_FIELDS & (given.keys() | fields_of_technique(given.get("memory_mode", "")))


def train_arguments(command: TrainFlags, config: TrainConfig) -> list[str]:
    """The flags with which ``train`` runs the training of ``command`` with this configuration."""
    named = {one.name: getattr(command, one.name) for one in fields(TrainFlags)}
    wanted = TrainFlags(**named | {"config": config, "json": False})
    return list(to_flags(wanted, train_defaults(TrainFlags, command.model_name, command.placement.memory_mode)))
