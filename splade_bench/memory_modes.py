"""How a batch is computed, as settings: memory modes and their techniques, as data, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from splade_bench.errors import ConfigError
from splade_bench.fields import require_range, size_bytes

_MAX_C_INT = 2**31 - 1  # of mallopt's argument; glibc would see the low 32 bits of a larger number


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """How a batch is computed. Each setting can be changed alone.

    Only settings marked inexact change the gradient of a batch. The defaults are the exact settings that save memory
    at little cost in time.
    """

    head: Literal["eager", "streaming", "tiled", "triton"] = "streaming"
    """eager keeps the logits [batch, length, vocabulary] for backward; streaming never makes them. It is triton where
    that can run, else tiled.
    tiled: streaming in operators of torch, on every device. triton (CUDA, with the package triton): streaming in
    kernels of its own, faster and more exact."""
    padding: Literal["max_length", "longest"] = "longest"
    """Pad each group of texts to max_length, or to its own longest text."""
    pad_to_multiple_of: int | None = None
    """Round padded lengths up to a multiple of this: some allocators reuse memory by size. None: 32 on MPS, else 1."""
    gradient_caching: bool = True
    """Compute a batch in mini-batches of texts of similar length, and still get the gradient of the whole batch."""
    mini_batch_tokens: int | None = None
    """Largest number of tokens in a mini-batch, padding included.
    None: chosen by the size of the model, and on an accelerator by its free memory."""
    mini_batch_size: int | None = None
    """Largest number of texts in a mini-batch.
    None: as many as the tokens allow, and on an accelerator the memory for their vectors."""
    activation_memory: str = "none"
    """Memory for the activations that mini-batches keep until backward: none, all, or a size such as 2GiB. Those that
    keep them are computed once, the others twice. The largest mini-batch always keeps its own."""
    activation_checkpointing: bool = False
    """Keep only each layer's input and compute the layer again in backward."""
    selective_recomputation: bool = True
    """Compute GELU and LayerNorm again in backward instead of keeping their results."""
    in_place_gradients: bool = True
    """Add weight gradients to their sum without a temporary tensor."""
    compact_dropout: bool = True
    """CPU: dropout keeps only one byte per element for backward; its probability is rounded to 16 bits."""
    streaming_attention: bool = True
    """CPU and MPS: compute attention with dropout a few heads at a time, and keep no [length, length] tensors."""
    attention_dropout: bool = True
    """Use the model's dropout on attention probabilities.
    With --no-attention-dropout, fused attention can run, but the gradient changes (inexact)."""
    optimizer_states: Literal["float32", "bfloat16", "disk", "sharded"] = "float32"
    """Where AdamW keeps its moments. float32: in memory; bfloat16: in half the memory (inexact); disk: in a file;
    sharded: in memory, shared out between the processes of a training; in one process this is float32."""
    optimizer_states_dir: str | None = None
    """Folder for the file of --optimizer-states disk: 8 bytes per parameter. None: that of the variable TMPDIR, or
    /var/tmp."""
    fused_optimizer: bool = True
    """AdamW without temporary copies of the parameters."""
    garbage_collection_interval: int = 0
    """Call gc.collect() after this many batches; 0: never."""
    empty_cache_interval: int = 0
    """CUDA and MPS: return unused cached memory to the system after this many batches; 0: never."""
    trim_heap: bool = True
    """Linux: return free heap pages to the system between mini-batches.
    During the forward pass, return them also each time another 64 MiB have been kept for backward."""
    mmap_threshold_bytes: int | None = 4 * 2**20
    """Linux: return tensors of at least this size to the system when they are freed. None: glibc decides."""

    def __post_init__(self) -> None:
        require_range(self, "pad_to_multiple_of", "mini_batch_tokens", "mini_batch_size", at_least=1)
        require_range(self, "garbage_collection_interval", "empty_cache_interval", at_least=0)
        require_range(self, "mmap_threshold_bytes", at_least=1, at_most=_MAX_C_INT)
        if self.activation_memory_bytes and not self.gradient_caching:
            raise ConfigError(
                f"--activation-memory {self.activation_memory}: with --no-gradient-caching all activations are kept; "
                "leave out one of the two"
            )

    @property
    def activation_memory_bytes(self) -> float:
        """0 for none, infinity for all."""
        named = {"none": 0.0, "all": math.inf}.get(self.activation_memory)
        return size_bytes("activation_memory", self.activation_memory, "none", "all") if named is None else named


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
        # The source article's unified trainer: the plain definition, always padded to max_length.
        "standard": _STANDARD,
        # Its "memory-efficient" trainer: the same, with del and gc.collect() every five batches.
        "article": replace(_STANDARD, garbage_collection_interval=5),
        "memory-efficient": MemoryConfig(),
        # Also the techniques that cost time, for the smallest machines.
        "minimal-memory": MemoryConfig(
            mini_batch_tokens=1,
            activation_checkpointing=True,
            attention_dropout=False,
            optimizer_states="disk",
            mmap_threshold_bytes=2**20,
        ),
    }
)
"""The settings of each memory mode, by its name. :func:`memory_mode` also reads names with a technique."""
DEFAULT_MEMORY_MODE = "memory-efficient"


@dataclass(frozen=True, slots=True, eq=False)
class Technique:
    """One memory setting that a mode's name can add or leave out."""

    name: str
    settings: Mapping[str, Any]
    """Fields of :class:`MemoryConfig` that switch it on."""
    summary: str
    exact: bool = True
    """Whether the gradient of a batch stays the same."""

    @property
    def settings_off(self) -> Mapping[str, Any]:
        """The same fields as in the standard mode, which switch it off."""
        return {name: getattr(_STANDARD, name) for name in self.settings}

    def is_on(self, memory: MemoryConfig) -> bool:
        """Whether ``memory`` has it."""
        return all(getattr(memory, name) == value for name, value in self.settings.items())


_TECHNIQUES = (
    Technique("streaming-head", {"head": "streaming"}, "Compute the head tile by tile; never make all logits."),
    Technique("dynamic-padding", {"padding": "longest"}, "Pad each group of texts to its own longest text."),
    Technique("length-buckets", {"pad_to_multiple_of": 16}, "Round padded lengths up to a multiple of 16."),
    Technique("gradient-caching", {"gradient_caching": True}, "Mini-batches; the gradient is that of the whole batch."),
    Technique("smallest-mini-batches", {"mini_batch_tokens": 1}, "One text per mini-batch."),
    Technique("activation-checkpointing", {"activation_checkpointing": True}, "Compute each layer again in backward."),
    Technique(
        "selective-recomputation", {"selective_recomputation": True}, "Compute GELU and LayerNorm again in backward."
    ),
    Technique("in-place-gradients", {"in_place_gradients": True}, "Sum weight gradients without a temporary tensor."),
    Technique("compact-dropout", {"compact_dropout": True}, "CPU: store the dropout mask in one byte per element."),
    Technique("streaming-attention", {"streaming_attention": True}, "CPU and MPS: attention, a few heads at a time."),
    Technique(
        "no-attention-dropout", {"attention_dropout": False}, "No dropout on attention probabilities.", exact=False
    ),
    Technique("fused-optimizer", {"fused_optimizer": True}, "AdamW without temporary copies of the parameters."),
    Technique(
        "optimizer-states-bfloat16", {"optimizer_states": "bfloat16"}, "AdamW's moments in bfloat16.", exact=False
    ),
    Technique("optimizer-states-disk", {"optimizer_states": "disk"}, "AdamW's moments in a file."),
    Technique(
        "optimizer-states-sharded", {"optimizer_states": "sharded"}, "AdamW's moments shared out between processes."
    ),
    Technique("garbage-collection", {"garbage_collection_interval": 5}, "Call gc.collect() every five batches."),
    Technique("heap-trimming", {"trim_heap": True}, "Linux: return free heap pages between mini-batches."),
    Technique("mmap-threshold", {"mmap_threshold_bytes": 4 * 2**20}, "Linux: give back freed tensors from 4 MiB on."),
)
MEMORY_TECHNIQUES: Mapping[str, Technique] = MappingProxyType({technique.name: technique for technique in _TECHNIQUES})


def split_mode(name: str) -> tuple[str, str | None, bool]:
    """``name`` as mode, technique, and whether the technique is added (``+``) or left out (``-without-``).

    The technique is None where the name is that of a mode alone, or does not begin with a mode. Whether there is such a
    technique is not checked.
    """
    for separator, added in (("+", True), ("-without-", False)):
        mode, separated, technique = name.partition(separator)
        if separated and mode in MEMORY_MODES:
            return mode, technique, added
    return name, None, False


def memory_mode(name: str, *, option: str = "--memory-mode") -> MemoryConfig:
    """The memory settings of the mode ``name``, the value of the flag ``option``.

    A row of :data:`MEMORY_MODES`, or such a row with one of :data:`MEMORY_TECHNIQUES` added or left out:
    ``standard+streaming-head``, ``memory-efficient-without-streaming-head``.

    Raises:
        ConfigError: the mode or the technique does not exist.
    """
    mode, technique, added = split_mode(name)
    if mode not in MEMORY_MODES or technique not in (None, *MEMORY_TECHNIQUES):
        raise ConfigError(
            f"{option} {name}: no such mode; choose from {', '.join(MEMORY_MODES)}; to change one, add +TECHNIQUE "
            f"or -without-TECHNIQUE, with one of {', '.join(MEMORY_TECHNIQUES)}"
        )
    if technique is None:
        return MEMORY_MODES[mode]
    found = MEMORY_TECHNIQUES[technique]
    return replace(MEMORY_MODES[mode], **(found.settings if added else found.settings_off))


def fields_of_technique(name: str) -> frozenset[str]:
    """The memory settings that the technique in a mode's name decides; none for a mode alone."""
    _, technique, _ = split_mode(name)
    return frozenset(MEMORY_TECHNIQUES[technique].settings if technique else ())
