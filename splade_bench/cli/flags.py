"""The flags of a training, which ``train``, ``plan`` and ``fit`` share, and how they are parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from splade_bench.config import DeviceName, TrainConfig
from splade_bench.data.training_formats import TrainFormat
from splade_bench.device.devices import resolve_device
from splade_bench.errors import ConfigError
from splade_bench.evaluation.metrics import RETRIEVAL_METRICS
from splade_bench.fields import require_range
from splade_bench.memory_modes import (
    DEFAULT_MEMORY_MODE,
    MEMORY_MODES,
    MEMORY_TECHNIQUES,
    MemoryConfig,
    memory_mode,
)
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.recipes import RECIPES
from splade_bench.starts import START_ACTIVE_DIMS, StartName

DEFAULT_MODEL = "tiny"
_MEMORY_MODE_HELP = "\n".join(
    (
        f"{', '.join(MEMORY_MODES)}, or one of them as MODE+TECHNIQUE or MODE-without-TECHNIQUE. The techniques:",
        *(
            f"{name}: {technique.summary}" + ("" if technique.exact else " Inexact.")
            for name, technique in MEMORY_TECHNIQUES.items()
        ),
    )
)
_RECIPE_HELP = "\n".join(
    (
        "Published settings, which become the defaults of the other flags. None: the defaults that --help shows.",
        *(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items()),
    )
)
# Every figure of an evaluation during a training.
VALIDATION_METRICS = (
    "validation_loss",
    *RETRIEVAL_METRICS,
    *(f"candidate_{name}" for name in RETRIEVAL_METRICS),
    *("query_active_dims", "document_active_dims", "query_expansion_ratio", "document_expansion_ratio"),
    "retrieval_flops",
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
    """Folder for final_model, the checkpoints, run.json, log.jsonl and the memory timeline."""
    overwrite: bool = False
    """Replace an earlier run in --output-dir: delete its checkpoints and its log, and replace its model."""
    memory_tracking: bool = False
    """Log current and peak memory, and draw memory over time with the phases of the training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """When a checkpoint is saved, and the checkpoint from which a run goes on."""

    save_steps: int = 500
    """Save a checkpoint after each so many optimizer steps. 0: only where a signal or a fault ends the run."""
    save_epochs: int | None = None
    """Save a checkpoint after each so many epochs; --save-steps then has no effect."""
    save_total_limit: int | None = 2
    """Keep only this many checkpoints. The newest and the best are always kept. None: keep all."""
    save_best: bool = False
    """Also save and keep a checkpoint of the best evaluation by --metric-for-best-model."""
    load_best_model_at_end: bool = False
    """Write the weights of the best evaluation to final_model, not the last ones. It includes --save-best."""
    resume_from_checkpoint: str | None = None
    """Go on from a checkpoint of --output-dir: latest, best, or the path of one. The flag alone means latest."""

    def __post_init__(self) -> None:
        require_range(self, "save_steps", at_least=0)
        require_range(self, "save_epochs", "save_total_limit", at_least=1)

    @property
    def keeps_best(self) -> bool:
        """Whether the best evaluation has a checkpoint."""
        return self.save_best or self.load_best_model_at_end

    def interval(self, steps_per_epoch: int) -> int:
        """Optimizer steps from one checkpoint to the next; 0: none is saved."""
        return self.save_epochs * steps_per_epoch if self.save_epochs else self.save_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Validating:
    """Evaluation on the validation data while the training runs, and early stopping."""

    eval_steps: int | None = None
    """Evaluate after each so many optimizer steps. None: evaluate only the trained model."""
    eval_epochs: int | None = None
    """Evaluate after each so many epochs."""
    metric_for_best_model: str = "mrr@10"
    """The figure of an evaluation that decides which one is best, such as mrr@10 or validation_loss."""
    greater_is_better: bool | None = None
    """Whether a larger figure is better. None: no for validation_loss, *_active_dims and *_flops, else yes."""
    early_stopping_patience: int | None = None
    """Stop the training after this many evaluations in a row without an improvement."""
    early_stopping_min_delta: float = 0.0
    """For early stopping, an improvement is larger than this."""
    log_dir: Path | None = None
    """Also write the loss and the figures of evaluations here, for TensorBoard. log.jsonl has them in any case."""

    def __post_init__(self) -> None:
        require_range(self, "eval_steps", "eval_epochs", "early_stopping_patience", at_least=1)
        require_range(self, "early_stopping_min_delta", at_least=0)
        if self.metric_for_best_model not in VALIDATION_METRICS:
            known = ", ".join(VALIDATION_METRICS)
            raise ConfigError(f"--metric-for-best-model {self.metric_for_best_model}: unknown; choose from {known}")
        if self.eval_steps and self.eval_epochs:
            raise ConfigError("--eval-steps contradicts --eval-epochs; give one of them")
        if self.early_stopping_patience and not self.is_on:
            raise ConfigError("--early-stopping-patience has no effect without --eval-steps; add --eval-steps N")
        if self.early_stopping_min_delta and not self.early_stopping_patience:
            advice = "add --early-stopping-patience N"
            raise ConfigError(f"--early-stopping-min-delta has no effect without --early-stopping-patience; {advice}")

    @property
    def is_on(self) -> bool:
        """Whether the training is evaluated while it runs."""
        return bool(self.eval_steps or self.eval_epochs)

    def interval(self, steps_per_epoch: int) -> int:
        """Optimizer steps from one evaluation to the next; 0: there is none."""
        return self.eval_epochs * steps_per_epoch if self.eval_epochs else self.eval_steps or 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What happens when the training or its data has a fault."""

    on_collapse: Literal["stop", "warn"] = "stop"
    """If the vectors become all zero or all dense: stop the training, or only warn."""
    on_oom: Literal["stop", "halve"] = "stop"
    """If no memory is left: stop, or go on from the same optimizer step with mini-batches of half the size."""
    skip_bad_records: bool = False
    """Leave out records of the training file that cannot be used, and count them. Without it, they are an error."""
    process_timeout_s: float = 1800
    """Several processes: seconds after which a process that does not answer ends the others. An evaluation or a
    checkpoint, for which the others wait, must take less."""

    def __post_init__(self) -> None:
        require_range(self, "process_timeout_s", at_least=1, at_most=10_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """The flags of a training."""

    recipe: Annotated[str | None, tyro.conf.arg(help=_RECIPE_HELP)] = None

    model_name: str = DEFAULT_MODEL
    """A preset with random weights (tiny, mini, base), minilm (needs the extra [minilm]), a local model folder, or a
    Hugging Face Hub id."""
    start: StartName = "as-is"
    """How the model's vectors start. calibrated: its decoder's bias is shifted until documents have
    --start-active-dims active dims. lexical: from the words of a text, which needs no trained head; then calibrated."""
    start_active_dims: int = START_ACTIVE_DIMS
    """Active dims that documents begin with, on average, with --start calibrated or lexical."""
    train_file: Path | None = None
    """A file or folder of queries with their documents (docs/data.md): JSON such as {"query", "positive_document",
    "negative_documents"}, CSV, TSV, Parquet, a BEIR folder. None: the embedded corpus. With --negatives-per-query 0,
    negatives may be missing."""
    train_format: TrainFormat = "auto"
    """The format of --train-file. auto recognizes it. hub: --train-file names a data set on the Hugging Face Hub."""
    val_file: Path | None = None
    """A file in one of these formats, or a BEIR folder: its split dev, or else test. The trained model is evaluated
    on it."""
    json: bool = False
    """Print one JSON object to standard output. Messages go to standard error."""
    placement: Placement = field(default_factory=Placement)
    """Where and how to compute. Each flag of the "training.memory options" changes one setting of --memory-mode."""
    output: Output = field(default_factory=Output)
    saving: Saving = field(default_factory=Saving)
    validating: Validating = field(default_factory=Validating)
    faults: Faults = field(default_factory=Faults)
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
