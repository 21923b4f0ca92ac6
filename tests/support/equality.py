"""Gradients as the optimizer is about to see them, and how near two ways of computing them must be."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.sources import TripleBatches, TripleSource
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.state import StepLoss, TrainState

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Bounds:
    """How near gradients in ``dtype`` must be.

    ``tolerance`` is relative to a tensor's own largest gradient, or to the share ``floor`` of the model's where that
    is larger: an attention key's bias has a true gradient of zero.
    """

    dtype: torch.dtype
    tolerance: float
    floor: float


FP64 = Bounds(torch.float64, tolerance=1e-9, floor=1e-6)
FP32 = Bounds(torch.float32, tolerance=1e-5, floor=1e-3)


def make_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"batch_size": 6, "max_length": 16, "learning_rate": 1e-3, "max_steps": 1} | changes)


def text_batches(triples: Sequence[Triple], encoder: SpladeEncoder, config: TrainConfig) -> Iterator[TripleBatch]:
    """The batches of a trainer's first epoch."""
    return TripleBatches.for_config(triples, encoder.tokenizer, config, encoder.device).batches(epoch=0)


def gradients_of(model: torch.nn.Module) -> Gradients:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


class GradientsSeen:
    """An observer that copies the gradients of each optimizer step when the optimizer is about to see them."""

    def __init__(self, model: SpladeEncoder) -> None:
        self._model = model
        self.steps: list[Gradients] = []

    def on_phase(self, phase: str) -> None:
        if phase == "optimizer_step":
            self.steps.append(gradients_of(self._model))

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        pass


def trained_gradients(
    encoder: SpladeEncoder, triples: Sequence[Triple] | TripleSource, config: TrainConfig, dtype: torch.dtype
) -> Gradients:
    """Those of a trainer's first optimizer step, accumulated and clipped. ``encoder`` stays as it is."""
    return step_gradients(copy.deepcopy(encoder).to(dtype), triples, config)


def step_gradients(model: SpladeEncoder, triples: Sequence[Triple] | TripleSource, config: TrainConfig) -> Gradients:
    """:func:`trained_gradients` by training ``model`` itself, with its hooks."""
    seen = GradientsSeen(model)
    Trainer(model, triples, config, observers=[seen]).train()
    return seen.steps[0]


def assert_gradients_are_near(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], bounds: Bounds) -> None:
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    assert ours.keys() == plain.keys()
    assert largest > 0
    for name, gradient in plain.items():
        scale = max(float(gradient.abs().max()), bounds.floor * largest)
        assert ours[name].dtype == bounds.dtype
        assert float((ours[name] - gradient).abs().max()) <= bounds.tolerance * scale, name


def relative_error(actual: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """L2 norm of the difference of all tensors over that of ``exact``."""
    assert actual.keys() == exact.keys()
    difference = sum(float((actual[name].double() - exact[name]).square().sum()) for name in exact)
    total = sum(float(tensor.square().sum()) for tensor in exact.values())
    assert total > 0
    return (difference / total) ** 0.5
