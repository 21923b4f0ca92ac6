"""Peers: other training algorithms, compared with this package on the same weights and batches.

Peers differ only in how they make the gradient: loss, schedule, clipping and optimizer are the same.
``benchmarks/gradient_check.py`` compares each gradient with the plain definition's.

- ``article-trainer``: the source article's algorithm. Three forward passes, each text padded to max_length, the logits
  of all three kept to the end of the step, ``log(1 + relu)``, mask, max.
- ``SpladeLoss``, ``SpladePooling-chunked``, ``CachedSpladeLoss``: sentence-transformers' losses in a plain loop: the
  steps of its trainer without the trainer's own work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForMaskedLM

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.sources import TripleSource
from splade_bench.config import TrainConfig
from splade_bench.device import reads
from splade_bench.grid.cell import ARTICLE_TRAINER
from splade_bench.model.precision import AUTOCAST_DTYPES
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.optimizer import make_optimizer
from splade_bench.training.schedules import learning_rate_scale, regularizer_scale
from splade_bench.training.state import StepLoss, TrainObserver, TrainResult, TrainState
from splade_bench.training.step import Phase

_CPU = torch.device("cpu")


class Peer(Protocol):
    """One way to make a batch's gradient."""

    model: nn.Module
    masked_language_model: nn.Module
    """The transformers model inside, whose parameter names are used to compare gradients."""

    def loss(self, batch: TripleBatch, *, regularizer_scale: float) -> Tensor:
        """The loss, ready for ``backward``; the peer may keep tensors until the next call, as its algorithm does."""


class PeerTrainer:
    """Trains a peer, with those parts of :class:`splade_bench.training.Trainer`'s interface that a benchmark needs."""

    def __init__(
        self, peer: Peer, source: TripleSource, config: TrainConfig, *, observers: Sequence[TrainObserver] = ()
    ) -> None:
        self.peer = peer
        self.config = config
        self._source = source
        self._observers = observers
        self._parameters = list(peer.model.parameters())
        self._device = self._parameters[0].device
        self._state = TrainState(max_steps=config.max_steps or source.batches_per_epoch)
        self._optimizer = make_optimizer(self._parameters, config)
        self._scheduler = LambdaLR(
            self._optimizer, lambda step: learning_rate_scale(config, step, self._state.max_steps)
        )

    def train(self) -> TrainResult:
        """Run to ``max_steps``, one batch an optimizer step."""
        torch.manual_seed(self.config.seed)
        self.peer.model.train()
        batches = chain.from_iterable(self._source.batches(epoch) for epoch in count())
        losses = [self._optimizer_step(batch) for batch in islice(batches, self._state.max_steps)]
        return TrainResult(
            losses=losses,
            global_step=self._state.global_step,
            queries_seen=self._state.queries_seen,
            interrupted=False,
        )

    def _optimizer_step(self, batch: TripleBatch) -> float:
        self._on_phase("forward")
        scale = regularizer_scale(self.config, self._state.global_step, self._state.max_steps)
        loss = self.peer.loss(batch.to(self._device), regularizer_scale=scale)
        self._on_phase("backward")
        loss.backward()
        (number,) = reads.read_numbers(loss.detach().reshape(1), planned=[math.nan])
        # The loss and what it still holds must not live during the optimizer step.
        del loss
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        self._on_phase("optimizer_step")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._scheduler.step()
        self._state.global_step += 1
        self._state.queries_seen += len(batch)
        unknown = {term.name: math.nan for term in fields(StepLoss)}
        loss_terms = StepLoss(**unknown | {"total": number})
        for observer in self._observers:
            observer.on_step_end(self._state, loss_terms)
        return number

    def _on_phase(self, phase: Phase) -> None:
        for observer in self._observers:
            observer.on_phase(phase)


class ArticlePeer:
    """The source article's algorithm around a masked-language model of transformers.

    ``mask_dtype`` is the type of the mask that multiplies the activations. The article does not name it; a mask of
    floats is as large as the logits, and autograd keeps it for each text.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, *, mask_dtype: torch.dtype = torch.int64) -> None:
        self.model = self.masked_language_model = model
        self._config = config
        self._mask_dtype = mask_dtype
        self._loss = SpladeLoss(config)
        self._outputs: list[Any] = []

    def loss(self, batch: TripleBatch, *, regularizer_scale: float) -> Tensor:
        with _autocast(self.model, self._config):
            return self._computed_loss(batch, regularizer_scale)

    def _computed_loss(self, batch: TripleBatch, regularizer_scale: float) -> Tensor:
        groups = []
        for texts in (batch.queries, *batch.documents):
            padding = (0, self._config.max_length - texts.input_ids.shape[1])
            groups.append((F.pad(texts.input_ids, padding), F.pad(texts.attention_mask, padding)))
        # The article's code keeps them to the end of the step: their logits are a large part of its memory.
        self._outputs.clear()
        self._outputs += [self.model(input_ids=ids, attention_mask=mask, return_dict=True) for ids, mask in groups]
        reps = [
            _log_then_max(output.logits, mask, self._mask_dtype)
            for output, (_, mask) in zip(self._outputs, groups, strict=True)
        ]
        return self._loss(reps[0], torch.cat(reps[1:]), regularizer_scale=regularizer_scale).total


class SentenceTransformersPeer:
    """SpladeLoss or CachedSpladeLoss of sentence-transformers around its in-batch ranking loss.

    ``loss_name`` is one of SpladeLoss, SpladePooling-chunked and CachedSpladeLoss; ``size`` the tokens of a chunk or
    the texts of a mini-batch, for the latter two. In mixed precision the model's forward pass alone is under autocast,
    as accelerate does it, so that a cached loss has it in both passes.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, loss_name: str, size: int | None, device: torch.device
    ) -> None:
        from sentence_transformers.sparse_encoder import SparseEncoder, losses

        encoder = SparseEncoder(str(folder), device=device.type)
        if config.mixed_precision != "no":
            encoder.forward = _autocast(encoder, config)(encoder.forward)
        if loss_name == "SpladePooling-chunked":
            encoder[1].chunk_size = size
        self.model: nn.Module = encoder
        self.masked_language_model: nn.Module = encoder[0].auto_model
        cached: dict[str, Any] = {"mini_batch_size": size} if loss_name == "CachedSpladeLoss" else {}
        make_loss = losses.CachedSpladeLoss if cached else losses.SpladeLoss
        self._loss = make_loss(
            encoder,
            losses.SparseMultipleNegativesRankingLoss(encoder),
            document_regularizer_weight=config.document_regularizer_weight,
            query_regularizer_weight=config.query_regularizer_weight,
            **cached,
        )
        self._config = config

    def loss(self, batch: TripleBatch, *, regularizer_scale: float) -> Tensor:
        self._loss.document_regularizer_weight = regularizer_scale * self._config.document_regularizer_weight
        self._loss.query_regularizer_weight = regularizer_scale * self._config.query_regularizer_weight
        groups = (batch.queries, *batch.documents)
        features = [{"input_ids": texts.input_ids, "attention_mask": texts.attention_mask} for texts in groups]
        terms: dict[str, Tensor] = self._loss(features, None)
        return torch.stack(list(terms.values())).sum()


def make_peer(trainer: str, size: int | None, folder: Path, config: TrainConfig, device: torch.device = _CPU) -> Peer:
    """The peer called ``trainer`` in :data:`splade_bench.grid.cell.TRAINERS`, with the weights of ``folder``."""
    if trainer == ARTICLE_TRAINER:
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        return ArticlePeer(model.to(device), config)
    return SentenceTransformersPeer(folder, config, trainer, size, device)


def _autocast(model: nn.Module, config: TrainConfig) -> torch.autocast:
    """Autocast on the model's device, if the configuration has one."""
    dtype = AUTOCAST_DTYPES.get(config.mixed_precision)
    return torch.autocast(next(model.parameters()).device.type, dtype, enabled=dtype is not None)


def _log_then_max(logits: Tensor, attention_mask: Tensor, mask_dtype: torch.dtype) -> Tensor:
    activated = torch.log(1 + torch.relu(logits))
    masked = activated * attention_mask.unsqueeze(-1).expand_as(activated).to(mask_dtype)
    return masked.max(dim=1).values
