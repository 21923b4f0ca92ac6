"""The cached step as a loss for sentence-transformers' SparseEncoderTrainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.losses import SpladeLoss
from torch import Tensor, nn

from splade_bench.device.heap import fix_mmap_threshold
from splade_bench.errors import ConfigError
from splade_bench.hugging_face.streaming import Features, StreamingSplade, heads_of, lean
from splade_bench.hugging_face.view import SparseEncoderView, text_batch
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.precision import wide_dtype
from splade_bench.training.gradcache import CachedMiniBatch, first_passes, take_to_weights
from splade_bench.training.step import StepContext

# Beside what they are for, features have what a Router reads.
_ROUTING = ("task", "modality")


class LeanSpladeLoss(SpladeLoss):  # type: ignore[misc]
    """sentence-transformers' SpladeLoss, with the memory of mini-batches: its values and its gradients.

    It makes the model lean. Texts of all columns go through it in mini-batches of similar length; the loss and the
    regularizers, which are sentence-transformers' own, see the vectors of the whole batch. ``backward`` then takes
    their gradient to the weights. Any loss that SpladeLoss accepts can be used, with labels too.

    Args:
        model: a SPLADE model on one device.
        loss: a loss with ``compute_loss_from_embeddings``.
        document_regularizer_weight: as SpladeLoss has it; a scheduler may change it.
        query_regularizer_weight: likewise.
        memory: how mini-batches are computed. Its head is always the streaming one; padding and optimizer are the
            trainer's.
        options: what else SpladeLoss takes.

    Memory: the activations of one mini-batch, or more up to ``memory.activation_memory``; 8 bytes per entry of the
    batch's vectors, 12 where the head keeps its winners, and what the loss makes of them.

    Raises:
        ConfigError: the model cannot be made lean.
    """

    uses_gradient_cache = True
    """What sentence-transformers asks a loss whose backward pass is in a hook."""

    def __init__(
        self,
        model: SparseEncoder,
        loss: nn.Module,
        document_regularizer_weight: float,
        query_regularizer_weight: float | None = None,
        *,
        memory: MemoryConfig = MEMORY_MODES["memory-efficient"],
        **options: Any,
    ) -> None:
        super().__init__(
            lean(model),
            loss,
            document_regularizer_weight=document_regularizer_weight,
            query_regularizer_weight=query_regularizer_weight,
            **options,
        )
        of_model = {id(part) for part in model.parameters()}
        if any(part.requires_grad and id(part) not in of_model for part in self.parameters()):
            raise ConfigError(
                f"LeanSpladeLoss: {type(loss).__name__} has parameters of its own, which would get no gradient; use "
                "lean(model) with SpladeLoss"
            )
        self.memory = memory
        self.query_active_dims: float | None = None
        """Of the last batch's queries, their mean; None before the first."""
        self.document_active_dims: float | None = None
        if memory.mmap_threshold_bytes:
            fix_mmap_threshold(memory.mmap_threshold_bytes)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of a batch of N queries, by name, each a scalar []. Their sum is the loss.

        Args:
            sentence_features: of the queries, of their positives, and of each column of negatives, as the trainer
                collects them: ids and mask [N, L].
            labels: what the ranking loss needs beside vectors.

        Raises:
            ConfigError: the model is not on one device, or a column has other inputs than padded texts.
        """
        if not isinstance(self.model, SparseEncoder):
            raise ConfigError(
                f"LeanSpladeLoss computes on one device and without torch.compile, but the trainer has put "
                f"{type(self.model).__name__} around the model; use lean(model) with CachedSpladeLoss there"
            )
        parts = self._parts([*sentence_features])
        terms, gradients = self._terms_of(parts, labels)
        if torch.is_grad_enabled():
            name, first = next(iter(terms.items()))
            # Its gradient is that of the sum of all terms, by whatever the trainer multiplies it.
            carrier = torch.zeros((), dtype=wide_dtype(first.dtype), device=first.device, requires_grad=True)
            carrier.register_hook(_Backward(parts, gradients))
            terms[name] = first + carrier
        return terms

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        memory = {name: getattr(self.memory, name) for name in ("mini_batch_tokens", "activation_memory")}
        return {**super().get_config_dict(), **memory}

    def _parts(self, columns: Sequence[Features]) -> list[_Part]:
        """The vectors of all columns: those with the same head together."""
        lean(self.model)  # a trainer may have made another model meanwhile
        streamed: dict[tuple[object, ...], tuple[StreamingSplade, Features, list[int]]] = {}
        parts: list[_Part] = []
        for number, features in enumerate(columns):
            head, routing = _route(self.model, features)
            if head is None:
                vectors = self.model(dict(features))["sentence_embedding"]
                parts.append(_PlainPart((number,), (len(vectors),), vectors))
            else:
                key = (head, *routing.values())
                streamed.setdefault(key, (head, routing, []))[2].append(number)
        for head, routing, numbers in streamed.values():
            view = SparseEncoderView(self.model, head, self.memory, routing)
            context = StepContext(active_share=(self.document_active_dims or 0.0) / view.vocab_size)
            groups = [text_batch(columns[number]) for number in numbers]
            reps, cached = first_passes(view, groups, context)
            sizes = tuple(len(group.lengths) for group in groups)
            parts.append(_StreamedPart(tuple(numbers), sizes, reps, view, cached, context))
        return parts

    def _terms_of(self, parts: Sequence[_Part], labels: Tensor | None) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """The terms without their graph, and their sum's gradient with respect to the vectors of each part."""
        leaves = [part.vectors.detach().requires_grad_(torch.is_grad_enabled()) for part in parts]
        columns: dict[int, Tensor] = {}
        for part, leaf in zip(parts, leaves, strict=True):
            columns |= zip(part.columns, leaf.split(part.sizes), strict=True)
        vectors = [columns[number] for number in sorted(columns)]
        terms = self._terms(vectors, labels)
        with torch.no_grad():
            active_dims = [float(torch.count_nonzero(column) / len(column)) for column in vectors[:2]]
        self.query_active_dims, self.document_active_dims = active_dims[0], active_dims[-1]
        gradients: Sequence[Tensor] = ()
        if torch.is_grad_enabled():
            total = torch.stack([*terms.values()]).sum()
            gradients = torch.autograd.grad(total, leaves, materialize_grads=True)
        return {name: term.detach() for name, term in terms.items()}, gradients

    def _terms(self, vectors: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        """What SpladeLoss makes of the vectors of each column."""
        ranking = self.loss.compute_loss_from_embeddings(vectors, labels)
        terms: dict[str, Tensor] = {**ranking} if isinstance(ranking, Mapping) else {"base_loss": ranking}
        documents = torch.cat(vectors if self.use_document_regularizer_only else vectors[1:])
        regularizer = self.document_regularizer.compute_loss_from_embeddings(documents)
        terms["document_regularizer_loss"] = self.document_regularizer_weight * regularizer
        if self.query_regularizer_weight is not None:
            regularizer = self.query_regularizer.compute_loss_from_embeddings(vectors[0])
            terms["query_regularizer_loss"] = self.query_regularizer_weight * regularizer
        return terms


class _Part(Protocol):
    """Columns whose vectors are made in one way."""

    columns: Sequence[int]
    sizes: Sequence[int]
    """Texts of each column."""
    vectors: Tensor
    """Of all of them, [N, V]."""

    def take_to_weights(self, gradient: Tensor) -> None:
        """Add the gradient with respect to the vectors, [N, V], to that of the weights."""


@dataclass(slots=True)
class _PlainPart:
    """A column without a transformer, such as the queries of an inference-free model: its graph is small."""

    columns: Sequence[int]
    sizes: Sequence[int]
    vectors: Tensor

    def take_to_weights(self, gradient: Tensor) -> None:
        if self.vectors.requires_grad:
            self.vectors.backward(gradient)


@dataclass(slots=True)
class _StreamedPart:
    """Columns that go through a streaming head, in mini-batches."""

    columns: Sequence[int]
    sizes: Sequence[int]
    vectors: Tensor
    view: SparseEncoderView
    cached: list[CachedMiniBatch]
    context: StepContext

    def take_to_weights(self, gradient: Tensor) -> None:
        if any(parameter.requires_grad for parameter in self.view.body.parameters()):
            take_to_weights(self.view, self.cached, self.vectors, gradient, self.context)


@dataclass(slots=True)
class _Backward:
    """The hook: second passes, mini-batch by mini-batch."""

    parts: list[_Part]
    gradients: Sequence[Tensor]
    done: bool = field(default=False, init=False)

    def __call__(self, factor: Tensor) -> None:
        if self.done:
            raise RuntimeError("LeanSpladeLoss: backward has freed this batch's activations; compute the loss again")
        self.done = True
        with torch.enable_grad():
            for part, gradient in zip(self.parts, self.gradients, strict=True):
                part.take_to_weights(gradient.mul_(factor))
        self.parts, self.gradients = [], ()


def _route(model: SparseEncoder, features: Features) -> tuple[StreamingSplade | None, Features]:
    """The streaming head that a column goes through, if any, and the features that lead there."""
    if not isinstance(model[0], Router):
        return heads_of(model)[0], {}
    routing = {name: features[name] for name in _ROUTING if features.get(name) is not None}
    route = model[0].sub_modules[model[0]._resolve_route(**routing)]
    return next(iter(heads_of(route)), None), routing
