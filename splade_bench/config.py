"""The settings of a training run as plain frozen records, without torch. The command line's flags are these fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from splade_bench.errors import ConfigError
from splade_bench.fields import require_range
from splade_bench.memory_modes import DEFAULT_MEMORY_MODE, MEMORY_MODES, MemoryConfig
from splade_bench.objective import MAX_COUNT, Objective

MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
MixedPrecision = Literal["no", "bf16", "fp16"]
ActivationName = Literal["log1p", "double-log1p"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPreset:
    """Shape of a BERT with random weights (:mod:`splade_bench.model.presets` builds it)."""

    layers: int
    hidden_size: int
    attention_heads: int
    vocab_size: int


MODEL_PRESETS: Mapping[str, ModelPreset] = MappingProxyType(
    {
        # The embedded corpus cannot fill more than tiny's vocabulary. The others have BERT's.
        "tiny": ModelPreset(layers=2, hidden_size=128, attention_heads=2, vocab_size=8192),
        "mini": ModelPreset(layers=6, hidden_size=384, attention_heads=6, vocab_size=30522),
        "base": ModelPreset(layers=12, hidden_size=768, attention_heads=12, vocab_size=30522),
        # For warm-ups and tests: it takes almost no time.
        "toy": ModelPreset(layers=1, hidden_size=32, attention_heads=2, vocab_size=512),
        # For measurements of the head alone: BERT-tiny's size with BERT's vocabulary.
        "bert-tiny": ModelPreset(layers=2, hidden_size=128, attention_heads=2, vocab_size=30522),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Objective):
    """The settings of a training run. Warm-ups and other schedules count optimizer steps, not batches."""

    max_length: int = 256
    """Cut queries and documents after this many tokens."""
    batch_size: int = 8
    """Queries in a batch; in-batch negatives come from the same batch."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step. Accumulated batches do not share in-batch negatives."""
    negatives_per_query: int = 1
    """Hard negatives drawn for each query in each epoch."""
    epochs: int = 3
    """How often training goes through the data."""
    max_steps: int | None = None
    """Stop training after this many optimizer steps. None: after the last epoch."""
    learning_rate: float = 2e-5
    """Learning rate at the end of the warm-up. Random weights need a larger learning rate than a pretrained model."""
    warmup_ratio: float = 0.1
    """Share of the optimizer steps in which the learning rate rises; it falls linearly afterwards."""
    warmup_steps: int | None = None
    """Optimizer steps in which the learning rate rises. None: by --warmup-ratio."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """If the norm of the gradients is larger than this, scale them down to it. 0: no limit."""
    query_prompt: str | None = None
    """Text before each query, such as "query: ". None: as the model has it."""
    document_prompt: str | None = None
    """Text before each document. None: as the model has it."""
    query_encoder: Literal["model", "static"] | None = None
    """What makes vectors of queries: the model, or a learned weight for each token, which starts as its inverse
    document frequency and needs no model in a search (inference-free). None: as the model has it."""
    query_learning_rate: float = 1e-3
    """Learning rate of static query weights, where --learning-rate is that of the model."""
    activation: ActivationName | None = None
    """From a logit above 0 to a weight: log(1 + x) or log(1 + log(1 + x)). None: as the model has it."""
    mixed_precision: MixedPrecision = "no"
    """Number type of matrix products (torch autocast). Weights, sums and the loss stay in float32."""
    tf32: bool = False
    """CUDA: round what float32 products multiply to 10 bits after the point. They are faster, and less exact (inexact).
    It changes nothing where --mixed-precision gives products another type."""
    seed: int = 42
    """Seed of the weights, the order of the data and the dropout."""
    memory: MemoryConfig = field(default_factory=lambda: MEMORY_MODES[DEFAULT_MEMORY_MODE])
    """How each batch is computed."""

    def __post_init__(self) -> None:
        Objective.__post_init__(self)
        counts = "batch_size", "gradient_accumulation_steps", "epochs", "max_steps"
        require_range(self, *counts, at_least=1, at_most=MAX_COUNT)
        require_range(self, "max_length", at_least=MIN_MAX_LENGTH)
        amounts = "negatives_per_query", "weight_decay", "warmup_steps", "seed"
        require_range(self, *amounts, at_least=0, at_most=MAX_COUNT)
        require_range(self, "max_grad_norm", at_least=0, at_most=math.inf)
        require_range(self, "warmup_ratio", at_least=0, at_most=1)
        require_range(self, "learning_rate", "query_learning_rate", at_least=1e-30)
        if self.needs_negatives and self.negatives_per_query == 0:
            raise ConfigError(f"--loss {self.loss} needs --negatives-per-query of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields."""
        return asdict(self)
