"""Which mini-batches of a cached step keep their graphs, and what these take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from splade_bench.batching.mini_batches import MiniBatch
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.units import format_bytes


class SavedStorages:
    """Counts the storages that a forward pass inside the block keeps for backward, without those of parameters."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        parameters_at = {parameter.untyped_storage()._cdata for parameter in parameters}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters_at:
                sizes[storage._cdata] = storage.nbytes()
            return tensor.detach()  # a graph that kept its own result would never be freed without a backward

        self._sizes = sizes
        self._hooks = saved_tensors_hooks(note, lambda tensor: tensor)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that is kept beside the graph."""
        storage = tensor.untyped_storage()
        self._sizes[storage._cdata] = storage.nbytes()

    @property
    def sizes_bytes(self) -> Sequence[int]:
        """Of each storage."""
        return [*self._sizes.values()]


class ActivationMemory:
    """The memory that graphs may take, shared out among the mini-batches of a batch, the largest first.

    The first always keeps its graph: it is computed once, and some mini-batch has to be. What a smaller one will take
    is estimated from it, by texts and tokens. Where attention keeps tensors [length, length], the estimate is too low
    for a mini-batch of fewer but longer texts.

    Args:
        memory: its ``activation_memory`` is the limit. With all, all graphs are kept; with none, only the first.
        vector_bytes: what the head keeps for each text.
    """

    def __init__(self, memory: MemoryConfig, vector_bytes: int) -> None:
        self._given = memory.activation_memory
        self.limit_bytes = memory.activation_memory_bytes
        self._vector_bytes = vector_bytes
        self._kept_bytes = 0.0
        self._token_bytes: float | None = None

    def keeps(self, mini_batch: MiniBatch) -> bool:
        """Whether this one keeps its graph, which then counts."""
        if self._token_bytes is None or self.limit_bytes == torch.inf:
            return True
        estimate_bytes = self._estimate_bytes(len(mini_batch.rows), mini_batch.texts.input_ids.numel())
        if self._kept_bytes + estimate_bytes > self.limit_bytes:
            return False
        self._kept_bytes += estimate_bytes
        return True

    def learn(self, first: MiniBatch, sizes_bytes: Sequence[int]) -> None:
        """Note what the graph of the first one takes."""
        self._kept_bytes = sum(sizes_bytes)
        tokens = first.texts.input_ids.numel()
        self._token_bytes = max(0.0, self._kept_bytes - len(first.rows) * self._vector_bytes) / tokens

    def require(self, texts: int, tokens: int) -> None:
        """Check that a mini-batch of this size could keep its graph.

        Raises:
            ConfigError: it could not.
        """
        if self.limit_bytes and (estimate_bytes := self._estimate_bytes(texts, tokens)) > self.limit_bytes:
            raise ConfigError(
                f"--activation-memory {self._given}: a mini-batch of {tokens} tokens keeps "
                f"{format_bytes(estimate_bytes)}; give at least that much, use none, or set a smaller "
                "--mini-batch-tokens or --mini-batch-size"
            )

    def _estimate_bytes(self, texts: int, tokens: int) -> float:
        return texts * self._vector_bytes + tokens * (self._token_bytes or 0.0)
