"""sentence-transformers' SparseEncoder without its logits, in place, with the same vectors and the same saved files.

Its transformer's decoder passes hidden states on, and its pooling has the streaming head. Shapes as in
:mod:`splade_bench.model.head`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import Self

from splade_bench.errors import ConfigError
from splade_bench.model.activations import ACTIVATION_FUNCTIONS
from splade_bench.model.head import Pooled, pool, splade_max

Features = dict[str, Any]


_TEXTS = ["A short text.", "A longer text about rivers, bridges and the people who cross them."]
# Of vectors before and after, relative and absolute: rounding depends on the order of sums.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.1


def lean(model: SparseEncoder) -> SparseEncoder:
    """Make a SparseEncoder compute its vectors without logits from now on, and return it.

    Its vectors, the names of its weights and what it saves stay the same: ``SparseEncoder(folder)`` loads what it saves
    also where this package is not installed. Each Transformer followed by a SpladePooling is changed, also in the
    routes of a Router. A model that is lean already is left as it is.

    Memory: as :func:`splade_bench.model.head.splade_max`, instead of several [B, L, V].

    Raises:
        ConfigError: the model has no SPLADE pooling, it needs all logits, or its vectors would be others. The model is
            then as it was.
    """
    if heads_of(model):
        return model
    pairs = [*_pairs(model)]
    if not pairs:
        raise ConfigError("lean(model): the model has no Transformer followed by SpladePooling; use a SPLADE model")
    for pair in pairs:
        _make_lean(pair)
    return model


def heads_of(model: nn.Module) -> list[StreamingSplade]:
    """The streaming heads of a model; none if it is not lean."""
    return [module for module in model.modules() if isinstance(module, StreamingSplade)]


class HiddenStates(nn.Linear):
    """Output embeddings that return what they are given. The head has their weights.

    They stay where the model has them: so the model's state, its tied weights and what it saves are those of the whole.
    """

    @classmethod
    def of(cls, decoder: nn.Linear) -> Self:
        """The same weights."""
        made = cls(decoder.in_features, decoder.out_features, bias=False, device="meta")
        made.weight, made.bias = decoder.weight, decoder.bias
        return made.train(decoder.training)

    def forward(self, input: Tensor) -> Tensor:
        return input


@dataclass(slots=True)
class HeadPass:
    """How a head treats a forward pass of the cached step, and what it found."""

    graph: bool
    """Whether the vectors get a graph."""
    keep_winners: bool
    in_place_gradients: bool = False
    pooled: Pooled | None = None
    """What an earlier pass of the same texts found; after a pass without a graph, what this one did."""


class StreamingSplade(SpladePooling):  # type: ignore[misc]
    """SpladePooling of the kind *max*, from hidden states and the decoder's weights: [B, L, H] -> [B, V], float32."""

    embedding_dimension: int | None

    def __init__(
        self, decoder: nn.Linear, *, activation_function: str = "relu", embedding_dimension: int | None = None
    ) -> None:
        super().__init__("max", activation_function, embedding_dimension)
        # In a tuple, so that the weights belong to the transformer alone.
        self._decoder = (decoder,)
        self._pass: HeadPass | None = None

    @property
    def decoder(self) -> nn.Linear:
        """The output embeddings, [V, H]."""
        return self._decoder[0]

    def forward(self, features: Features) -> Features:
        """Take the hidden states out of ``features`` and put the vectors in."""
        if "cu_seq_lens_q" in features:
            raise ConfigError("StreamingSplade needs padded texts: set unpad_inputs = False on the model's Transformer")
        hidden = features.pop("token_embeddings")
        vectors = self._vectors(hidden, features["attention_mask"])
        if self.embedding_dimension is None:
            self.embedding_dimension = vectors.shape[1]
        features["sentence_embedding"] = vectors
        return features

    @contextmanager
    def passing(self, head_pass: HeadPass) -> Iterator[None]:
        """Inside the block, a forward pass is one of the cached step."""
        self._pass = head_pass
        try:
            yield
        finally:
            self._pass = None

    def _vectors(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = hidden, self.decoder.weight, self.decoder.bias, attention_mask
        head_pass, activation = self._pass, ACTIVATION_FUNCTIONS[self.activation_function]
        if head_pass is None:
            return splade_max(*inputs, activation=activation)
        if not head_pass.graph:
            head_pass.pooled = pool(*inputs, keep_winners=head_pass.keep_winners, activation=activation)
            return head_pass.pooled.reps
        return splade_max(
            *inputs,
            keep_winners=head_pass.keep_winners,
            in_place_gradients=head_pass.in_place_gradients,
            pooled=head_pass.pooled,
            activation=activation,
        )

    @classmethod
    def load(cls, *arguments: Any, **keywords: Any) -> Any:
        """An ordinary SpladePooling: a trainer that loads a checkpoint asks the class that it trains."""
        return SpladePooling.load(*arguments, **keywords)

    def __repr__(self) -> str:
        return f"StreamingSplade({self.get_config_dict()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.__dict__,)


# What SparseEncoder.save writes down of a module: so everybody can load the saved model. A copy is made by __reduce__.
StreamingSplade.__module__ = SpladePooling.__module__
StreamingSplade.__name__ = StreamingSplade.__qualname__ = SpladePooling.__name__


def _restored(state: dict[str, Any]) -> StreamingSplade:
    made = StreamingSplade.__new__(StreamingSplade)
    made.__dict__.update(state)
    return made


@dataclass(frozen=True, slots=True)
class _Pair:
    """A Transformer and the SpladePooling after it."""

    modules: nn.Sequential
    place: int
    """Of the pooling."""

    @property
    def transformer(self) -> Transformer:
        return self.modules[self.place - 1]

    @property
    def pooling(self) -> SpladePooling:
        return self.modules[self.place]


def _pairs(model: nn.Module) -> Iterator[_Pair]:
    for modules in model.modules():
        if isinstance(modules, nn.Sequential):
            for place, module in enumerate(modules):
                if place and isinstance(module, SpladePooling) and isinstance(modules[place - 1], Transformer):
                    yield _Pair(modules, place)


def _make_lean(pair: _Pair) -> None:
    """Change a pair, and change it back if its vectors are others then."""
    pooling, network = pair.pooling, pair.transformer.model
    if pooling.pooling_strategy != "max":
        raise ConfigError(f"lean(model): the pooling {pooling.pooling_strategy} needs all logits; only max can stream")
    if pair.place + 1 < len(pair.modules):
        following = type(pair.modules[pair.place + 1]).__name__
        raise ConfigError(
            f"lean(model): a {following} follows the SpladePooling, which is not computed here; remove it"
        )
    decoder = network.get_output_embeddings() if isinstance(network, PreTrainedModel) else None
    if not isinstance(decoder, nn.Linear):
        raise ConfigError(f"lean(model): {type(network).__name__} has no output embeddings that torch computes")
    before = None if isinstance(decoder, HiddenStates) else _sample_vectors(pair)
    name = next(name for name, module in network.named_modules() if module is decoder)
    passing = HiddenStates.of(decoder)
    network.set_submodule(name, passing)
    pair.modules[pair.place] = StreamingSplade(
        passing,
        activation_function=pooling.activation_function,
        embedding_dimension=pooling.embedding_dimension,
    ).train(pooling.training)
    if before is None or _are_close(_sample_vectors(pair), before):  # a route that shares its model is proved already
        return
    network.set_submodule(name, decoder)
    pair.modules[pair.place] = pooling
    raise ConfigError(
        f"lean(model): without its output embeddings {type(network).__name__} gives other vectors; use another model"
    )


@torch.no_grad()
def _sample_vectors(pair: _Pair) -> Tensor:
    modules = pair.transformer, pair.pooling
    training = [module.training for module in modules]
    features = pair.transformer.preprocess([*_TEXTS])
    device = next(pair.transformer.parameters()).device
    features = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in features.items()}
    try:
        for module in modules:
            module.eval()
            features = module(features)
    finally:
        for module, was_training in zip(modules, training, strict=True):
            module.train(was_training)
    vectors: Tensor = features["sentence_embedding"]
    return vectors


def _are_close(actual: Tensor, expected: Tensor) -> bool:
    tolerance = _TOLERANCE.get(expected.dtype, _LOW_PRECISION_TOLERANCE)
    return torch.allclose(actual.to(expected.dtype), expected, rtol=tolerance, atol=tolerance, equal_nan=True)
