"""Queries without a model: each token has a weight of its own (inference-free retrieval; Geng et al., 2024).

Shapes: N texts, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import Self

from splade_bench.batching.batches import TextBatch
from splade_bench.errors import DataError
from splade_bench.model.model_files import file_of_model

QUERY_WEIGHTS_NAME = "query_weights.safetensors"
_KEY = "weight"


class StaticQueries(nn.Module):
    """A learned weight for each token; a query's vector has those of the tokens in it.

    Source: Geng et al., "Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers", 2024,
    arXiv 2411.04403.

    Args:
        weight: of each token at the start [V], such as its inverse document frequency. A weight that is 0 or falls to
            it stays there.
        special_tokens: token ids that are in no vector.
    """

    is_word: Tensor

    def __init__(self, weight: Tensor, special_tokens: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        is_word = torch.ones_like(weight)
        is_word[[token for token in special_tokens if token < len(weight)]] = 0
        self.register_buffer("is_word", is_word, persistent=False)

    def forward(self, batch: TextBatch) -> Tensor:
        """Vectors [N, V]. A token that comes twice counts once. Memory: two tensors of their size."""
        texts = len(batch.lengths)
        contained = self.weight.new_zeros(texts, len(self.weight))
        # amax: padding must not take away a token of the text that has the padding's id.
        contained.scatter_reduce_(1, batch.input_ids, batch.attention_mask.to(contained.dtype), "amax")
        return contained * (self.weight * self.is_word).relu()

    @classmethod
    def load(cls, model_name: str, special_tokens: Sequence[int], vocab_size: int) -> Self | None:
        """The weights of a saved model; None if it has none.

        Raises:
            DataError: they are damaged, or those of another vocabulary.
        """
        path = file_of_model(model_name, QUERY_WEIGHTS_NAME)
        if path is None:
            return None
        try:
            weight = load_file(path)[_KEY]
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        if weight.shape != (vocab_size,):
            raise DataError(
                f"{path}: has weights of the shape {[*weight.shape]}, but the model has {vocab_size} tokens"
            )
        if not weight.isfinite().all():
            raise DataError(f"{path}: has weights that are not finite (NaN or infinity)")
        return cls(weight, special_tokens)


def save_query_weights(folder: Path, queries: StaticQueries | None) -> None:
    """Write the weights into a model's folder; without any, see that it has none."""
    path = folder / QUERY_WEIGHTS_NAME
    if queries is None:
        path.unlink(missing_ok=True)
    else:
        save_file({_KEY: queries.weight.detach().cpu().contiguous()}, path)
