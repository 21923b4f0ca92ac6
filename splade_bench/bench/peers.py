"""What this package is compared with: other ways to train the same weights on the same batches.

Each peer makes the gradient in its own way; loss, schedule, clipping and optimizer are the same for all: the gradient's
price is what is compared. :mod:`splade_bench.bench.gradient_check` holds each against the plain definition first.

- ``article``: the source article's algorithm. Three forward passes, each text padded to max_length, the logits of all
  three kept to the end of the step, ``log(1 + relu)``, mask, max.
- ``SpladeLoss``, ``SpladePooling-chunked``, ``CachedSpladeLoss``: sentence-transformers' losses in a plain loop, which
  is what its trainer does at each step, less the trainer's own work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForMaskedLM

from splade_bench.config import TrainConfig
from splade_bench.data.batching import TextBatch, TripleBatch, TripleSource
from splade_bench.losses import SpladeLoss
from splade_bench.training.optimizer import make_optimizer
from splade_bench.training.schedules import learning_rate_scale, regularizer_scale
from splade_bench.training.trainer import StepLoss, TrainObserver, TrainResult, TrainState


class Peer(Protocol):
    """One way to make a batch's gradient."""

    model: nn.Module

    def backward(self, batch: TripleBatch, *, regularizer_scale: float) -> float:
        """Leave the gradient in the parameters; the loss."""

    def masked_language_model(self) -> nn.Module:
        """The transformers model inside, by whose parameter names gradients are compared."""


class PeerTrainer:
    """Trains a peer by the contract of :class:`splade_bench.training.Trainer`, as far as a benchmark needs it."""

    def __init__(
        self, peer: Peer, source: TripleSource, config: TrainConfig, *, observers: Sequence[TrainObserver] = ()
    ) -> None:
        self.peer = peer
        self.config = config
        self._source = source
        self._observers = observers
        self._parameters = list(peer.model.parameters())
        self._state = TrainState(max_steps=config.max_steps or source.batches_per_epoch)
        self._optimizer = make_optimizer(self._parameters, config)
        self._scheduler = LambdaLR(
            self._optimizer, lambda step: learning_rate_scale(config, step, self._state.max_steps)
        )

    def train(self) -> TrainResult:
        """Run to ``max_steps``, one batch an optimizer step."""
        torch.manual_seed(self.config.seed)
        self.peer.model.train()
        losses = [self._optimizer_step(batch) for batch in self._batches()]
        return TrainResult(
            losses=losses,
            global_step=self._state.global_step,
            queries_seen=self._state.queries_seen,
            interrupted=False,
        )

    def _batches(self) -> Iterator[TripleBatch]:
        epoch = 0
        while True:
            for batch in self._source.batches(epoch):
                if self._state.global_step == self._state.max_steps:
                    return
                yield batch
            epoch += 1

    def _optimizer_step(self, batch: TripleBatch) -> float:
        for observer in self._observers:
            observer.on_phase("forward")
        scale = regularizer_scale(self.config, self._state.global_step, self._state.max_steps)
        loss = self.peer.backward(batch, regularizer_scale=scale)
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        for observer in self._observers:
            observer.on_phase("optimizer_step")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._scheduler.step()
        self._state.global_step += 1
        self._state.queries_seen += len(batch)
        for observer in self._observers:
            observer.on_step_end(self._state, _total_only(loss))
        return loss


class ArticlePeer:
    """The source article's algorithm."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.model: nn.Module = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self._config = config
        self._loss = SpladeLoss(config)

    def backward(self, batch: TripleBatch, *, regularizer_scale: float) -> float:
        groups = [self._padded(texts) for texts in (batch.queries, *batch.documents)]
        # Named, so that they live as long as the step: their logits are a good part of what it keeps.
        outputs = [self.model(input_ids=ids, attention_mask=mask, return_dict=True) for ids, mask in groups]
        reps = [_log_then_max(output.logits, mask) for output, (_, mask) in zip(outputs, groups, strict=True)]
        loss = self._loss(reps[0], torch.cat(reps[1:]), regularizer_scale=regularizer_scale).total
        loss.backward()
        return loss.item()

    def masked_language_model(self) -> nn.Module:
        return self.model

    def _padded(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        missing = self._config.max_length - texts.input_ids.shape[1]
        return F.pad(texts.input_ids, (0, missing)), F.pad(texts.attention_mask, (0, missing))


class SentenceTransformersPeer:
    """SpladeLoss or CachedSpladeLoss of sentence-transformers around its in-batch ranking loss.

    ``loss_name`` is one of SpladeLoss, SpladePooling-chunked and CachedSpladeLoss; ``size`` the tokens of a chunk or
    the texts of a mini-batch, for the latter two.
    """

    def __init__(self, folder: Path, config: TrainConfig, loss_name: str, size: int | None) -> None:
        from sentence_transformers.sparse_encoder import SparseEncoder, losses

        encoder = SparseEncoder(str(folder), device="cpu")
        if loss_name == "SpladePooling-chunked":
            encoder[1].chunk_size = size
        self.model: nn.Module = encoder
        self._masked_language_model: nn.Module = encoder[0].auto_model
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

    def backward(self, batch: TripleBatch, *, regularizer_scale: float) -> float:
        self._loss.document_regularizer_weight = regularizer_scale * self._config.document_regularizer_weight
        self._loss.query_regularizer_weight = regularizer_scale * self._config.query_regularizer_weight
        groups = (batch.queries, *batch.documents)
        features = [{"input_ids": texts.input_ids, "attention_mask": texts.attention_mask} for texts in groups]
        terms: dict[str, Tensor] = self._loss(features, None)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        return loss.item()

    def masked_language_model(self) -> nn.Module:
        return self._masked_language_model


def make_peer(trainer: str, size: int | None, folder: Path, config: TrainConfig) -> Peer:
    """The peer called ``trainer`` in :data:`splade_bench.cell.TRAINERS`, with the weights of ``folder``."""
    if trainer == "article":
        return ArticlePeer(folder, config)
    return SentenceTransformersPeer(folder, config, trainer, size)


def _log_then_max(logits: Tensor, attention_mask: Tensor) -> Tensor:
    activated = torch.log(1 + torch.relu(logits))
    masked = activated * attention_mask.unsqueeze(-1).expand_as(activated)
    return masked.max(dim=1).values


def _total_only(loss: float) -> StepLoss:
    return StepLoss(
        total=loss,
        ranking=float("nan"),
        query_regularizer=float("nan"),
        document_regularizer=float("nan"),
        query_active_dims=float("nan"),
        document_active_dims=float("nan"),
    )
