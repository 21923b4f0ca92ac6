"""The training loop: one for every memory mode, device and loss.

Modes differ in data only (:class:`splade_bench.config.MemoryConfig`). Measuring, progress and planning all use
:class:`TrainObserver`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import require_right_padding
from splade_bench.batching.sources import TripleBatches, TripleSource
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.device.devices import empty_cache
from splade_bench.device.heap import fix_mmap_threshold
from splade_bench.device.planned import once_in_plan
from splade_bench.device.reads import read_numbers
from splade_bench.errors import ConfigError, NotFiniteError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.gradients import release_gradients
from splade_bench.training.clipping import clip_gradients, gradient_norm
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.loss_scale import LossScale
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.optimizer import make_optimizer
from splade_bench.training.schedules import learning_rate_scale, regularizer_scale
from splade_bench.training.step import BackwardStep, Phase, StepContext, direct_step

FINAL_LOSS_SHARE = 0.1


@dataclass(slots=True)
class TrainState:
    """How far a run is. ``global_step`` counts optimizer steps, ``micro_step`` batches."""

    max_steps: int
    active_share: float = 0.0
    """Share of the document vectors' entries that were active in the last optimizer step."""
    global_step: int = 0
    micro_step: int = 0
    queries_seen: int = 0
    stop_requested: bool = False
    """Set by an observer or a signal handler: the run ends after the current optimizer step."""


class TrainObserver(Protocol):
    """Sees a run without changing what it computes."""

    def on_phase(self, phase: Phase) -> None:
        """A part of an optimizer step begins."""

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        """An optimizer step is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """Means over the queries of one optimizer step, as plain numbers."""

    total: float
    ranking: float
    query_regularizer: float
    document_regularizer: float
    query_active_dims: float
    document_active_dims: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """The loss of each optimizer step, and how far a run came."""

    losses: list[float] = field(repr=False)
    global_step: int
    queries_seen: int
    interrupted: bool

    @property
    def final_loss(self) -> float | None:
        """Mean loss over the last tenth of the optimizer steps; None without a step."""
        last = self.losses[-max(1, round(len(self.losses) * FINAL_LOSS_SHARE)) :]
        return sum(last) / len(last) if last else None


class Trainer:
    """Trains a :class:`SpladeEncoder` in place.

    Args:
        training_data: triples of plain text, or any source of ready batches.
        active_share: share of the vectors' entries that are active before training, as far as it is known.

    Raises:
        ConfigError: the data or the model cannot be used with this configuration.
    """

    def __init__(
        self,
        encoder: SpladeEncoder,
        training_data: Sequence[Triple] | TripleSource,
        config: TrainConfig,
        *,
        observers: Sequence[TrainObserver] = (),
        active_share: float = 0.0,
    ) -> None:
        self.encoder = encoder
        self.config = config
        self.observers = tuple(observers)
        if isinstance(training_data, Sequence):
            if not training_data:
                raise ConfigError("there are no triples to train on")
            if config.negatives_per_query and not all(triple.negatives for triple in training_data):
                raise ConfigError("--negatives-per-query: some queries have no negatives; add some, or set it to 0")
            encoder.require_positions(config.max_length)
            training_data = TripleBatches.for_config(training_data, encoder.tokenizer, config, encoder.device)
        self.source = training_data
        self.loss = SpladeLoss(config)
        steps_per_epoch = -(-self.source.batches_per_epoch // config.gradient_accumulation_steps)
        max_steps = config.max_steps or steps_per_epoch * config.epochs
        self.state = TrainState(max_steps, active_share=active_share)
        encoder.configure(config.memory, mixed_precision=config.mixed_precision)
        self.backward_step: BackwardStep = gradcache_step if encoder.memory.gradient_caching else direct_step
        if encoder.memory.mmap_threshold_bytes:
            fix_mmap_threshold(encoder.memory.mmap_threshold_bytes)
        self.loss_scale = LossScale.for_precision(config.mixed_precision)
        self.optimizer = make_optimizer(encoder.parameters(), config)
        self.scheduler = LambdaLR(self.optimizer, lambda step: learning_rate_scale(config, step, max_steps))

    def train(self) -> TrainResult:
        """Run to ``max_steps`` or the end of the last epoch; afterwards no gradient is kept.

        Raises:
            NotFiniteError: the loss or the gradient is not finite. The weights are those before this optimizer step.
        """
        torch.manual_seed(self.config.seed)
        self.encoder.train()
        losses = []
        try:
            for window in self._windows():
                loss = self._optimizer_step(window)
                if loss is not None:
                    losses.append(loss)
                if self.state.stop_requested or self.state.global_step == self.state.max_steps:
                    break
        finally:
            release_gradients(self.encoder.parameters())
        return TrainResult(
            losses=losses,
            global_step=self.state.global_step,
            queries_seen=self.state.queries_seen,
            interrupted=self.state.global_step < self.state.max_steps,
        )

    def request_stop(self) -> None:
        """End the run after the current optimizer step; safe to call from a signal handler."""
        self.state.stop_requested = True

    def _windows(self) -> Iterator[list[TripleBatch]]:
        """The batches of each optimizer step; the last window of an epoch may be shorter."""
        epoch = 0
        while self.state.global_step < self.state.max_steps:
            batches = self.source.batches(epoch)
            self._on_phase("batching")
            while window := list(islice(batches, self.config.gradient_accumulation_steps)):
                yield window
                self._on_phase("batching")
            epoch += 1

    def _optimizer_step(self, window: list[TripleBatch]) -> float | None:
        """The loss; None where the gradient overflowed: then no step is taken, and other batches make up for it."""
        queries = sum(len(batch) for batch in window)
        terms = []
        # In a plan the second batch represents all later ones: like them, it starts with the gradients of another.
        for _, batch in once_in_plan(enumerate(window), key=lambda pair: (pair[0] > 0, pair[1].lengths)):
            share = len(batch) / queries
            terms.append((self._micro_step(batch, share), share))
        loss, norm = self._read(terms, gradient_norm(self.encoder.parameters()))
        self._require_finite("loss", loss.total)
        self.state.active_share = loss.document_active_dims / self.encoder.vocab_size
        if not isfinite(norm) and self.loss_scale.lower():
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self._update_weights(norm / self.loss_scale.factor)
        self.state.global_step += 1
        self.state.queries_seen += queries
        for observer in self.observers:
            observer.on_step_end(self.state, loss)
        return loss.total

    def _micro_step(self, batch: TripleBatch, gradient_scale: float) -> LossTerms:
        if self.encoder.memory.gradient_caching:
            require_right_padding(batch.groups)
        context = StepContext(
            regularizer_scale=regularizer_scale(self.config, self.state.global_step, self.state.max_steps),
            gradient_scale=gradient_scale * self.loss_scale.factor,
            active_share=self.state.active_share,
            on_phase=self._on_phase,
        )
        terms = self.backward_step(self.encoder, batch.to(self.encoder.device), self.loss, context)
        self.state.micro_step += 1
        self._free_memory()
        return terms

    def _read(self, terms: Sequence[tuple[LossTerms, float]], norm: Tensor) -> tuple[StepLoss, float]:
        """The mean of each term, weighted by each batch's share of the queries, and the gradient's norm.

        The loop waits for the device here only, once per optimizer step. A plan assumes vectors of the same active
        share as before, and a gradient that needs no clipping.
        """
        names = [*StepLoss.__dataclass_fields__]
        means = [torch.stack([getattr(batch, name) * share for batch, share in terms]).sum() for name in names]
        active_dims = self.state.active_share * self.encoder.vocab_size
        planned = [active_dims if name.endswith("active_dims") else 0.0 for name in names]
        together = torch.stack([mean.to(means[0]) for mean in (*means, norm)])
        *values, norm_value = read_numbers(together, planned=[*planned, 0.0])
        return StepLoss(**dict(zip(names, values, strict=True))), norm_value

    def _update_weights(self, norm: float) -> None:
        """Clip gradients of this norm and take the step."""
        self._require_finite("gradient norm", norm)
        clip_gradients(
            self.encoder.parameters(),
            norm=norm,
            max_norm=self.config.max_grad_norm,
            loss_scale=self.loss_scale.factor,
        )
        self._on_phase("optimizer_step")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.loss_scale.on_step()

    def _free_memory(self) -> None:
        memory, step = self.encoder.memory, self.state.micro_step
        if memory.garbage_collection_interval and step % memory.garbage_collection_interval == 0:
            gc.collect()
        if memory.empty_cache_interval and step % memory.empty_cache_interval == 0:
            empty_cache(self.encoder.device)

    def _on_phase(self, phase: Phase) -> None:
        for observer in self.observers:
            observer.on_phase(phase)

    def _require_finite(self, name: str, value: float) -> None:
        if isfinite(value):
            return
        advice = "try a lower --learning-rate or --max-grad-norm 1"
        if self.loss_scale.adapts:
            advice = "the value is too large for float16: use --mixed-precision bf16 or no"
        raise NotFiniteError(f"optimizer step {self.state.global_step + 1}: the {name} is {value}; {advice}")
