"""The training loop: one for every memory mode, device and loss.

Modes differ in data only (:class:`splade_bench.memory_modes.MemoryConfig`). Measuring, progress, logs and checkpoints
all use :class:`TrainObserver`.

Weights change in one place only, the optimizer's step. Whatever ends an optimizer step before that (a signal, no memory
left, a loss that is not finite) leaves the run as it was after the step before.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from math import isfinite

import torch

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.mini_batches import require_right_padding
from splade_bench.batching.sources import TripleSource
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.device.cuda import tf32_products
from splade_bench.device.devices import empty_cache
from splade_bench.device.heap import fix_mmap_threshold
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.device.planned import once_in_plan
from splade_bench.errors import error_line
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.gradients import release_gradients
from splade_bench.model.rng import RngState, capture_rng, restore_rng
from splade_bench.training.clipping import clip_gradients, gradient_norm
from splade_bench.training.faults import half_mini_batch, not_finite
from splade_bench.training.feeding import source_of
from splade_bench.training.gradcache import gradcache_step, largest_mini_batch
from splade_bench.training.loss_scale import LossScale
from splade_bench.training.losses import LossTerms
from splade_bench.training.optimizer import make_optimizer
from splade_bench.training.preparing import prepare_model
from splade_bench.training.schedules import learning_rate_scale, regularizer_scale, steps_of_run, steps_per_epoch
from splade_bench.training.state import STOP_FIELDS, StepLoss, TrainObserver, TrainResult, TrainState
from splade_bench.training.step import BackwardStep, Phase, StepContext, StopRequested, direct_step
from splade_bench.training.step_numbers import read_step
from splade_bench.training.together import OneProcess

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a :class:`SpladeEncoder` in place.

    Args:
        training_data: triples of plain text, or any source of ready batches.
        active_share: share of the vectors' entries that are active before training, as far as it is known.
        halve_on_oom: without memory, compute the same batch again in mini-batches of half the size.
        processes: those that train this model together; each has a trainer with the same arguments.

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
        halve_on_oom: bool = False,
        processes: OneProcess | None = None,
    ) -> None:
        self.processes = processes or OneProcess()
        self.encoder = encoder
        self.config = config = prepare_model(encoder, config)
        self.observers = [*observers]
        self.source = source_of(training_data, encoder, config, self.processes.share)
        self.loss = self.processes.loss_of(config)
        self.state = TrainState(steps_of_run(config, self.source.batches_per_epoch), active_share=active_share)
        self.losses: list[float] = []
        self.backward_step: BackwardStep = gradcache_step if encoder.memory.gradient_caching else direct_step
        if encoder.memory.mmap_threshold_bytes:
            fix_mmap_threshold(encoder.memory.mmap_threshold_bytes)
        self.loss_scale = LossScale.for_precision(config.mixed_precision)
        self.optimizer = make_optimizer(
            encoder.parameters(), config, query_weights=encoder.query_weights, processes=self.processes
        )
        self.random_state: RngState | None = None
        """Of torch, after the last complete optimizer step; None before a run that does not resume."""
        self.step_batches: Sequence[TripleBatch] = ()
        """The batches of the optimizer step under way, or of one that failed."""
        self._halve_on_oom = halve_on_oom
        self._complete = replace(self.state)
        self._updating_weights = False

    def train(self) -> TrainResult:
        """Run to ``max_steps`` or the end of the last epoch; afterwards no gradient is kept.

        However it ends, ``state`` and weights are those of the last complete optimizer step, unless the optimizer
        itself failed: see :attr:`weights_are_complete`.

        Raises:
            NotFiniteError: the loss or the gradient is not finite.
        """
        if self.random_state is None:
            torch.manual_seed(self.config.seed)
        else:
            restore_rng(self.random_state)
        self.encoder.train()
        self.processes.begin_run(self.encoder, self.config.seed)
        self._mark_complete()
        try:
            with tf32_products(self.config.tf32):
                self._train_on_all()
        except StopRequested:
            pass
        finally:
            self._roll_back()
        self.step_batches = ()
        return self.result()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last one may have fewer batches."""
        return steps_per_epoch(self.config, self.source.batches_per_epoch)

    @property
    def weights_are_complete(self) -> bool:
        """Whether the weights are those of ``state``: False after an optimizer's step that failed midway."""
        return not self._updating_weights

    def result(self) -> TrainResult:
        """How far the run is."""
        state = self.state
        return TrainResult(
            losses=self.losses,
            global_step=state.global_step,
            queries_seen=state.queries_seen,
            interrupted=state.global_step < state.max_steps and state.stop_reason is None,
            stop_reason=state.stop_reason,
        )

    def request_stop(self) -> None:
        """End the run at the next mini-batch; safe to call from a signal handler."""
        self.processes.ask_to_stop(self.state)

    def check_stop(self) -> None:
        """Raise :class:`StopRequested` if the run shall end: for what this process does alone, between two steps."""
        self.processes.check_stop(self.state)

    def limit_mini_batches(self, tokens: int | None) -> None:
        """Compute batches in mini-batches of at most ``tokens``, with the same gradient; None: as configured."""
        self.state.mini_batch_tokens = tokens
        if tokens is not None:
            settings = {"gradient_caching": True, "mini_batch_tokens": tokens, "activation_memory": "none"}
            memory = replace(self.config.memory, **settings)  # type: ignore[arg-type]
            self.encoder.configure(memory, mixed_precision=self.config.mixed_precision)
            self.backward_step = gradcache_step

    def _windows(self) -> Iterator[list[TripleBatch]]:
        """The batches of each optimizer step; the last window of an epoch may be shorter."""
        while self.state.global_step < self.state.max_steps:
            batches = self.source.batches(self.state.epoch, start=self.state.batches_done)
            self._on_phase("batching")
            while window := list(islice(batches, self.config.gradient_accumulation_steps)):
                yield window
                self._on_phase("batching")
            self.state.epoch += 1
            self.state.batches_done = 0

    def _train_on_all(self) -> None:
        for window in self._windows():
            self.step_batches = window
            self._train_on(window)
            if self.state.stop_requested or self.state.global_step == self.state.max_steps:
                break

    def _train_on(self, window: list[TripleBatch]) -> None:
        loss = self._step_within_memory(window)
        self.state.batches_done += len(window)
        self._mark_complete()
        self.step_batches = ()
        if loss is not None:
            self.losses.append(loss.total)
            with self.processes.on_rank_0(self.state):
                for observer in self.observers:
                    observer.on_step_end(self.state, loss)

    def _step_within_memory(self, window: list[TripleBatch]) -> StepLoss | None:
        """The optimizer step, or the same one in smaller mini-batches if there is no memory and this is allowed."""
        try:
            return self._optimizer_step(window)
        except (MemoryError, RuntimeError, OSError) as error:
            may_halve = self._halve_on_oom and self.weights_are_complete and is_out_of_memory(error)
            tokens = half_mini_batch(self.encoder, window) if may_halve else None
            if tokens is None:
                raise
            logger.warning("--on-oom halve: mini-batches of %d tokens from now on: %s", tokens, error_line(error))
        # Outside of the except clause: the error's traceback holds the tensors of the failed step.
        self._roll_back()
        self.limit_mini_batches(tokens)
        self._mark_complete()
        gc.collect()
        empty_cache(self.encoder.device)
        return self._step_within_memory(window)

    def _optimizer_step(self, window: list[TripleBatch]) -> StepLoss | None:
        """The loss; None where the gradient overflowed: then no step is taken, and other batches make up for it."""
        queries = sum(batch.all_queries for batch in window)
        terms = []
        # In a plan the second batch represents all later ones: like them, it starts with the gradients of another.
        for _, batch in once_in_plan(enumerate(window), key=lambda pair: (pair[0] > 0, pair[1].lengths)):
            share = batch.all_queries / queries
            terms.append((self._micro_step(batch, share), share))
        self.processes.add_up_gradients(self.encoder.parameters())
        active_dims = self.state.active_share * self.encoder.vocab_size
        norm_on_device = gradient_norm(self.encoder.parameters())
        loss, norm = read_step(terms, norm_on_device, planned_active_dims=active_dims)
        if not isfinite(loss.total):
            raise not_finite(self, "loss", loss.total, [one.total.item() for one, _ in terms])
        self.state.active_share = loss.document_active_dims / self.encoder.vocab_size
        if not isfinite(norm):
            if not self.loss_scale.lower():
                raise not_finite(self, "gradient norm", norm)
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self._update_weights(norm / self.loss_scale.factor)
        self.state.global_step += 1
        self.state.queries_seen += queries
        return loss

    def _micro_step(self, batch: TripleBatch, gradient_scale: float) -> LossTerms:
        self.processes.begin_batch(self.state)
        if self.encoder.memory.gradient_caching:
            require_right_padding(batch.groups)
        context = StepContext(
            regularizer_scale=regularizer_scale(self.config, self.state.global_step, self.state.max_steps),
            gradient_scale=gradient_scale * self.loss_scale.factor,
            active_share=self.state.active_share,
            largest_mini_batch=None if self.state.micro_step else largest_mini_batch(self.encoder, self.config),
            on_phase=self._on_phase,
            check_stop=self._check_in_batch,
        )
        # Without texts of its own, a process takes part in the loss alone.
        backward_step = self.backward_step if len(batch) else gradcache_step
        terms = backward_step(self.encoder, batch, self.loss, context)
        self.state.micro_step += 1
        self._free_memory()
        return terms

    def _update_weights(self, norm: float) -> None:
        """Clip gradients of this norm and take the step, unless the run shall end."""
        self._check_in_batch()
        config, state = self.config, self.state
        clip_gradients(
            self.encoder.parameters(), norm=norm, max_norm=config.max_grad_norm, loss_scale=self.loss_scale.factor
        )
        state.gradient_norm = norm
        scale = learning_rate_scale(config, state.global_step, state.max_steps)
        state.learning_rate = config.learning_rate * scale
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("initial_lr", config.learning_rate) * scale
        self._on_phase("optimizer_step")
        self._updating_weights = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_scale.on_step()

    def _check_in_batch(self) -> None:
        self.processes.check_in_batch(self.state)

    def _mark_complete(self) -> None:
        """What the run is now is what a checkpoint saves, and what an unfinished optimizer step falls back to."""
        self._updating_weights = False
        self._complete = replace(self.state)
        self.random_state = capture_rng(self.encoder.device)

    def _roll_back(self) -> None:
        """Forget the optimizer step under way."""
        release_gradients(self.encoder.parameters())
        for name, value in asdict(self._complete).items():
            if name not in STOP_FIELDS:  # a signal may set them at any time
                setattr(self.state, name, value)
        if self.random_state is not None:
            restore_rng(self.random_state)

    def _free_memory(self) -> None:
        memory, step = self.encoder.memory, self.state.micro_step
        if memory.garbage_collection_interval and step % memory.garbage_collection_interval == 0:
            gc.collect()
        if memory.empty_cache_interval and step % memory.empty_cache_interval == 0:
            empty_cache(self.encoder.device)

    def _on_phase(self, phase: Phase) -> None:
        for observer in self.observers:
            observer.on_phase(phase)
