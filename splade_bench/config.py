"""What a run is made of: plain frozen records, no torch. The command line's flags come from these fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from splade_bench.errors import ConfigError

MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]
MAX_SEED = 2**32 - 1  # what every random generator takes
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPreset:
    """Shape of a BERT with random weights (:mod:`splade_bench.model.presets` builds it)."""

    layers: int
    hidden_size: int
    attention_heads: int
    vocab_size: int


MODEL_PRESETS: Mapping[str, ModelPreset] = MappingProxyType(
    {
        # tiny's vocabulary is as large as the embedded corpus can fill; the others have BERT's.
        "tiny": ModelPreset(layers=2, hidden_size=128, attention_heads=2, vocab_size=8192),
        "mini": ModelPreset(layers=6, hidden_size=384, attention_heads=6, vocab_size=30522),
        "base": ModelPreset(layers=12, hidden_size=768, attention_heads=12, vocab_size=30522),
        # A model that costs nothing, for warm-ups and tests.
        "toy": ModelPreset(layers=1, hidden_size=32, attention_heads=2, vocab_size=512),
        # BERT-tiny's size with BERT's vocabulary, for measuring the head by itself.
        "bert-tiny": ModelPreset(layers=2, hidden_size=128, attention_heads=2, vocab_size=30522),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """How a batch is computed: no field changes the result, only the memory and time it takes."""

    head: Literal["eager", "streaming"] = "streaming"
    """eager keeps the logits [B, L, V] for backward; streaming never makes them."""
    padding: Literal["max_length", "longest"] = "longest"
    """Pad each group of texts to max_length, or to its own longest text."""
    garbage_collection_interval: int = 0
    """Batches between two calls of gc.collect(); 0: never."""
    fused_optimizer: bool = True
    """AdamW without temporary copies of the parameters."""
    mmap_threshold_bytes: int | None = 4 * 2**20
    """Linux: tensors of at least this size go back to the system when they are freed. None: as glibc decides."""


_STANDARD = MemoryConfig(head="eager", padding="max_length", fused_optimizer=False, mmap_threshold_bytes=None)
MEMORY_MODES: Mapping[str, MemoryConfig] = MappingProxyType(
    {
        # The unified trainer of the source: the plain definition, always padded to max_length.
        "standard": _STANDARD,
        # Its "memory-efficient" trainer: the same, with del and gc.collect() every five batches.
        "article": replace(_STANDARD, garbage_collection_interval=5),
        "memory-efficient": MemoryConfig(),
    }
)
DEFAULT_MEMORY_MODE = "memory-efficient"


def memory_mode(name: str) -> MemoryConfig:
    """The row of :data:`MEMORY_MODES` called ``name``.

    Raises:
        ConfigError: there is no such mode.
    """
    if name not in MEMORY_MODES:
        raise ConfigError(f"--memory-mode {name}: no such mode; choose from {', '.join(MEMORY_MODES)}")
    return MEMORY_MODES[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run. Every schedule counts optimizer steps, whatever the accumulation."""

    max_length: int = 256
    """Tokens after which a text is cut, queries and documents alike."""
    batch_size: int = 8
    """Queries in one forward pass; in-batch negatives come from the same pass."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step. It never merges the batches' in-batch negatives."""
    negatives_per_query: int = 1
    """Hard negatives drawn for each query in each epoch."""
    epochs: int = 3
    """Passes over the training data."""
    max_steps: int | None = None
    """Optimizer steps after which to stop; overrides epochs."""
    learning_rate: float = 2e-5
    """Learning rate at the end of the warm-up; random weights want a larger one."""
    warmup_ratio: float = 0.1
    """Share of the optimizer steps in which the learning rate rises; it falls linearly afterwards."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down; 0: never."""
    loss: Literal["contrastive", "margin"] = "contrastive"
    """Softmax over in-batch and hard negatives, or the article's hinge on each hard negative."""
    margin: float = 0.2
    """Margin of the hinge."""
    regularizer: Literal["flops", "l1"] = "flops"
    """FLOPS of the SPLADE papers, or the article's L1 norm."""
    query_regularizer_weight: float = 1e-3
    """Weight of the queries' regularizer (lambda_q)."""
    document_regularizer_weight: float = 1e-3
    """Weight of the positive documents' regularizer (lambda_d)."""
    regularizer_warmup_ratio: float = 1 / 3
    """Share of the optimizer steps in which the regularizers rise, quadratically, to their weights."""
    seed: int = 42
    """Seed of the weights, the order of the data and the dropout."""
    memory: MemoryConfig = field(default_factory=lambda: MEMORY_MODES[DEFAULT_MEMORY_MODE])
    """How each batch is computed."""

    def __post_init__(self) -> None:
        for name, bound in (
            ("batch_size", 1),
            ("gradient_accumulation_steps", 1),
            ("epochs", 1),
            ("max_length", MIN_MAX_LENGTH),
            ("negatives_per_query", 0),
            ("warmup_ratio", 0),
            ("weight_decay", 0),
            ("max_grad_norm", 0),
            ("margin", 0),
            ("query_regularizer_weight", 0),
            ("document_regularizer_weight", 0),
            ("regularizer_warmup_ratio", 0),
            ("seed", 0),
        ):
            _at_least(name, getattr(self, name), bound)
        for name in ("warmup_ratio", "regularizer_warmup_ratio"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{option(name)} {getattr(self, name)}: must be at most 1")
        if self.seed > MAX_SEED:
            raise ConfigError(f"--seed {self.seed}: must be at most {MAX_SEED}")
        if self.max_steps is not None:
            _at_least("max_steps", self.max_steps, 1)
        if not self.learning_rate > 0:  # written so that NaN fails
            raise ConfigError(f"--learning-rate {self.learning_rate}: must be above 0")
        if self.loss == "margin" and self.negatives_per_query == 0:
            raise ConfigError("--loss margin needs --negatives-per-query of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields."""
        return asdict(self)


def option(field_name: str) -> str:
    """The command-line flag of a field."""
    return "--" + field_name.replace("_", "-")


def _at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:  # written so that NaN fails
        raise ConfigError(f"{option(name)} {value}: must be at least {bound}")
