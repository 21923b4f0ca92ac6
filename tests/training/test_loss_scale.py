"""Under float16 the loss is scaled: small gradients survive, and one that overflows costs a step and not the run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from equality import Gradients, gradients_of, make_config, relative_error
from torch import Tensor

from splade_bench.data.records import Triple
from splade_bench.errors import NotFiniteError
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.loss_scale import LossScale
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.schedules import learning_rate_scale
from splade_bench.training.state import StepLoss, TrainState


@dataclass
class SmallLoss:
    """A loss so small that float16 has no number for most of its gradient."""

    loss: SpladeLoss
    share: float = 1e-5

    def with_gradient(
        self, reps: Tensor, queries: int, *, gradient_scale: float, **options: Any
    ) -> tuple[LossTerms, Tensor]:
        terms, gradient = self.loss.with_gradient(reps, queries, gradient_scale=self.share * gradient_scale, **options)
        names = ("ranking", "query_regularizer", "document_regularizer")
        return replace(terms, **{name: getattr(terms, name) * self.share for name in names}), gradient


class Watcher:
    """What the optimizer was given, and the weights after each optimizer step."""

    def __init__(self, encoder: SpladeEncoder) -> None:
        self.encoder = encoder
        self.gradients: Gradients = {}
        self.weights: list[Tensor] = []

    def on_phase(self, phase: str) -> None:
        if phase == "optimizer_step":
            self.gradients = gradients_of(self.encoder)

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        self.weights.append(self.encoder.decoder.weight.detach().clone())


def gradients_of_a_small_loss(
    encoder: SpladeEncoder, triples: Sequence[Triple], precision: str, loss_scale: LossScale | None = None
) -> Gradients:
    model = copy.deepcopy(encoder).double() if precision == "no" else copy.deepcopy(encoder)
    watcher = Watcher(model)
    config = make_config(mixed_precision=precision, max_grad_norm=0.0)
    trainer = Trainer(model, triples, config, observers=[watcher])
    trainer.loss = SmallLoss(trainer.loss)  # type: ignore[assignment]
    trainer.loss_scale = loss_scale or trainer.loss_scale
    trainer.train()
    return watcher.gradients


def test_small_gradients_do_not_vanish(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    exact = gradients_of_a_small_loss(encoder, triples, "no")

    scaled = gradients_of_a_small_loss(encoder, triples, "fp16")
    plain = gradients_of_a_small_loss(encoder, triples, "fp16", loss_scale=LossScale())

    assert relative_error(scaled, exact) < 0.05
    assert relative_error(plain, exact) > 0.5


def test_a_gradient_that_overflows_is_left_out_and_the_loss_scaled_less(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    watcher = Watcher(encoder)
    trainer = Trainer(encoder, triples, make_config(mixed_precision="fp16", max_steps=3), observers=[watcher])
    before = encoder.decoder.weight.detach().clone()

    overflowed = []

    def overflow_once(gradient: Tensor) -> Tensor:
        if overflowed:
            return gradient
        overflowed.append(True)
        assert torch.equal(encoder.decoder.weight, before)
        return gradient * float("inf")

    encoder.decoder.weight.register_hook(overflow_once)
    first_factor = trainer.loss_scale.factor

    result = trainer.train()

    assert result.global_step == 3
    assert result.queries_seen == 3 * trainer.config.batch_size
    assert len(result.losses) == 3
    assert trainer.loss_scale.factor == first_factor / 2
    for earlier, later in pairwise([before, *watcher.weights]):
        assert not torch.equal(earlier, later)
    last = trainer.config.learning_rate * learning_rate_scale(trainer.config, 2, 3)
    assert trainer.state.learning_rate == last, "the learning rate counts the steps that were taken"


def test_a_gradient_that_is_never_finite_ends_the_run(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    trainer = Trainer(encoder, triples, make_config(mixed_precision="fp16", max_steps=30))
    encoder.decoder.weight.register_hook(lambda gradient: gradient * float("nan"))

    with pytest.raises(
        NotFiniteError,
        match=r"optimizer step 1: the gradient norm is nan on record .*; the value is too large for float16",
    ):
        trainer.train()


def test_after_many_steps_a_larger_scale_is_tried() -> None:
    scale = LossScale.for_precision("fp16")
    factor = scale.factor

    for _ in range(1999):
        scale.on_step()
    assert scale.factor == factor
    scale.on_step()
    assert scale.factor == 2 * factor
    assert scale.lower()
    assert scale.factor == factor


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_has_the_range_of_float32_is_not_scaled(precision: str) -> None:
    scale = LossScale.for_precision(precision)  # type: ignore[arg-type]

    for _ in range(5000):
        scale.on_step()

    assert scale.factor == 1.0
    assert not scale.lower()
