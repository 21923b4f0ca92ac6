"""What a run is made of: plain frozen records, no torch. The command line's flags come from these fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from splade_bench.errors import ConfigError

MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]
MAX_SEED = 2**32 - 1  # what every random generator takes
_MAX_C_INT = 2**31 - 1  # what glibc's mallopt takes; it would see a larger number's low bits
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
MixedPrecision = Literal["no", "bf16", "fp16"]


def option(field_name: str) -> str:
    """The command-line flag of a field."""
    return "--" + field_name.replace("_", "-")


def _at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:  # written so that NaN fails
        raise ConfigError(f"{option(name)} {value}: must be at least {bound}")


def _at_most(name: str, value: float, bound: float) -> None:
    if not value <= bound:
        raise ConfigError(f"{option(name)} {value}: must be at most {bound}")


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
    """How a batch is computed: the techniques, each switchable alone.

    All but those marked *inexact* leave the gradient of the batch as it is. The defaults are the exact ones that pay.
    """

    head: Literal["eager", "streaming"] = "streaming"
    """eager keeps the logits [B, L, V] for backward; streaming never makes them."""
    padding: Literal["max_length", "longest"] = "longest"
    """Pad each group of texts to max_length, or to its own longest text."""
    pad_to_multiple_of: int | None = None
    """Widths are rounded up to a multiple of this: fewer shapes for an allocator that caches by shape. None: 32 on MPS,
    else 1."""
    gradient_caching: bool = True
    """Run a batch in mini-batches of texts of like length, and still get the whole batch's gradient."""
    mini_batch_tokens: int | None = None
    """Tokens in a mini-batch, padding included; at least one text. None: by the size of the model."""
    mini_batch_size: int | None = None
    """Texts in a mini-batch, at most. None: as many as the tokens allow."""
    activation_checkpointing: bool = False
    """Keep only each layer's input and compute the layer again in backward."""
    selective_recomputation: bool = True
    """Compute the results of GELU and LayerNorm again in backward, where a linear layer would keep them."""
    in_place_gradients: bool = True
    """Add weight gradients to where they are summed, without a tensor of their own."""
    compact_dropout: bool = True
    """CPU: draw dropout from 16 bits (its probability rounded to a multiple of 2^-16), keep a byte an element."""
    streaming_attention: bool = True
    """CPU and MPS: attention with dropout a few heads at a time, without [L, L] tensors of all heads for backward."""
    attention_dropout: bool = True
    """False, *inexact*: no dropout on attention probabilities, so that a device's fused attention can run."""
    optimizer_states: Literal["float32", "bfloat16", "disk"] = "float32"
    """AdamW's two moments: in memory, in half of it (*inexact*: rounded at random), or in a file."""
    optimizer_states_dir: str | None = None
    """Folder for the moments of --optimizer-states disk, 8 bytes a parameter. None: /var/tmp or the system's own."""
    fused_optimizer: bool = True
    """AdamW without temporary copies of the parameters."""
    garbage_collection_interval: int = 0
    """Batches between two calls of gc.collect(); 0: never."""
    empty_cache_interval: int = 0
    """CUDA and MPS: batches between two returns of unused cached memory to the system; 0: never."""
    trim_heap: bool = True
    """Linux: give free heap pages back between mini-batches, and in them for each 64 MiB kept for backward."""
    mmap_threshold_bytes: int | None = 4 * 2**20
    """Linux: tensors of at least this size go back to the system when they are freed. None: as glibc decides."""

    def __post_init__(self) -> None:
        for name, bound in (
            ("pad_to_multiple_of", 1),
            ("mini_batch_tokens", 1),
            ("mini_batch_size", 1),
            ("garbage_collection_interval", 0),
            ("empty_cache_interval", 0),
            ("mmap_threshold_bytes", 1),
        ):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, bound)
        if self.mmap_threshold_bytes is not None:
            _at_most("mmap_threshold_bytes", self.mmap_threshold_bytes, _MAX_C_INT)


_STANDARD = MemoryConfig(
    head="eager",
    padding="max_length",
    gradient_caching=False,
    selective_recomputation=False,
    in_place_gradients=False,
    compact_dropout=False,
    streaming_attention=False,
    fused_optimizer=False,
    trim_heap=False,
    mmap_threshold_bytes=None,
)
MEMORY_MODES: Mapping[str, MemoryConfig] = MappingProxyType(
    {
        # The unified trainer of the source: the plain definition, always padded to max_length.
        "standard": _STANDARD,
        # Its "memory-efficient" trainer: the same, with del and gc.collect() every five batches.
        "article": replace(_STANDARD, garbage_collection_interval=5),
        "memory-efficient": MemoryConfig(),
        # Everything, also what costs time: for the tightest machine.
        "minimal-memory": MemoryConfig(
            mini_batch_tokens=1,
            activation_checkpointing=True,
            attention_dropout=False,
            optimizer_states="disk",
            mmap_threshold_bytes=2**20,
        ),
    }
)
DEFAULT_MEMORY_MODE = "memory-efficient"
# Each technique by its name, as the fields that switch it on; the standard mode's values switch it off.
MEMORY_TECHNIQUES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "streaming-head": {"head": "streaming"},
        "dynamic-padding": {"padding": "longest"},
        "length-buckets": {"pad_to_multiple_of": 16},
        "gradient-caching": {"gradient_caching": True},
        "smallest-mini-batches": {"mini_batch_tokens": 1},
        "activation-checkpointing": {"activation_checkpointing": True},
        "selective-recomputation": {"selective_recomputation": True},
        "in-place-gradients": {"in_place_gradients": True},
        "compact-dropout": {"compact_dropout": True},
        "streaming-attention": {"streaming_attention": True},
        "no-attention-dropout": {"attention_dropout": False},
        "fused-optimizer": {"fused_optimizer": True},
        "optimizer-states-bfloat16": {"optimizer_states": "bfloat16"},
        "optimizer-states-disk": {"optimizer_states": "disk"},
        "garbage-collection": {"garbage_collection_interval": 5},
        "heap-trimming": {"trim_heap": True},
        "mmap-threshold": {"mmap_threshold_bytes": 4 * 2**20},
    }
)


def memory_mode(name: str, *, option: str = "--memory-mode") -> MemoryConfig:
    """The memory settings called ``name``, which ``option`` was given.

    A row of :data:`MEMORY_MODES`, or one with a technique of :data:`MEMORY_TECHNIQUES` added or left out:
    ``standard+streaming-head``, ``memory-efficient-without-streaming-head``.

    Raises:
        ConfigError: there is no such mode or technique.
    """
    row, change = _row_and_change(name, option=option)
    return replace(row, **change)


def fields_of_technique(name: str) -> frozenset[str]:
    """The memory settings that a technique in a mode's name decides; none for a row by itself.

    Raises:
        ConfigError: there is no such mode or technique.
    """
    return frozenset(_row_and_change(name)[1])


def _row_and_change(name: str, *, option: str = "--memory-mode") -> tuple[MemoryConfig, Mapping[str, Any]]:
    if name in MEMORY_MODES:
        return MEMORY_MODES[name], {}
    for separator in ("+", "-without-"):
        mode, found, technique = name.partition(separator)
        if found and mode in MEMORY_MODES and technique in MEMORY_TECHNIQUES:
            switched_on = MEMORY_TECHNIQUES[technique]
            switched_off = {field_name: getattr(_STANDARD, field_name) for field_name in switched_on}
            return MEMORY_MODES[mode], switched_on if separator == "+" else switched_off
    raise ConfigError(
        f"{option} {name}: no such mode; choose from {', '.join(MEMORY_MODES)}, or one of them followed by "
        f"+TECHNIQUE or -without-TECHNIQUE, from {', '.join(MEMORY_TECHNIQUES)}"
    )


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
    """Weight of the documents' regularizer (lambda_d)."""
    regularized_documents: Literal["positives", "all"] = "positives"
    """Documents that are regularized: the positives, as in the article, or the negatives too."""
    regularizer_warmup_ratio: float = 1 / 3
    """Share of the optimizer steps in which the regularizers rise, quadratically, to their weights."""
    mixed_precision: MixedPrecision = "no"
    """Type that autocast gives to products; weights, sums and the loss stay in float32."""
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
            _at_most(name, getattr(self, name), 1)
        _at_most("seed", self.seed, MAX_SEED)
        if self.max_steps is not None:
            _at_least("max_steps", self.max_steps, 1)
        if not self.learning_rate > 0:  # written so that NaN fails
            raise ConfigError(f"--learning-rate {self.learning_rate}: must be above 0")
        if self.loss == "margin" and self.negatives_per_query == 0:
            raise ConfigError("--loss margin needs --negatives-per-query of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields."""
        return asdict(self)
