"""How far a trainer's gradient is from the plain definition's: a trainer is only timed if its gradient is right.

On a small model without dropout, with texts of uneven lengths, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.grid.cell import OWN_TRAINER, Cell
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.loading import load_masked_lm, load_tokenizer
from splade_bench.model.presets import build_preset
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.trainer import Trainer
from splade_bench.worker.peers import PeerTrainer, make_peer

Gradients = dict[str, Tensor]
_MODEL = "toy"
_MAX_LENGTH = 40
_BATCH_SIZE = 4
# A tensor whose true gradient is zero, as an attention key's bias, is compared with this share of the model's largest.
_FLOOR = 1e-6


def gradient_error(**cell_fields: Any) -> float:
    """The error of the trainer of a cell, with that cell's settings, see :func:`largest_gradient_error`."""
    cell = Cell(**cell_fields)
    vocab_size = MODEL_PRESETS[_MODEL].vocab_size
    config = replace(
        cell.train_config, max_length=_MAX_LENGTH, max_steps=1, max_grad_norm=0.0, regularizer_warmup_ratio=0.0
    )
    source = SyntheticBatches(
        batch_size=_BATCH_SIZE,
        max_length=_MAX_LENGTH,
        vocab_size=vocab_size,
        negatives_per_query=config.negatives_per_query,
        batches_per_epoch=1,
        seed=cell.seed,
        lengths="real",
        padding=config.memory.padding,
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_preset(_MODEL, train_tokenizer((), vocab_size=vocab_size), seed=1).save_pretrained(folder)
        exact = _own_gradients(folder, source, replace(config, memory=MEMORY_MODES["standard"]))
        if cell.trainer == OWN_TRAINER:
            return largest_gradient_error(_own_gradients(folder, source, config), exact)
        return largest_gradient_error(_peer_gradients(cell, folder, source, config), exact)


def largest_gradient_error(actual: Gradients, exact: Gradients) -> float:
    """Largest difference of an element, relative to its tensor's largest or a millionth of the model's.

    Infinite if the parameters that have a gradient are not the same.
    """
    if actual.keys() != exact.keys() or not exact:
        return float("inf")
    floor = _FLOOR * max(float(gradient.abs().max()) for gradient in exact.values())
    return max(
        float((actual[name] - gradient).abs().max()) / max(float(gradient.abs().max()), floor)
        for name, gradient in exact.items()
    )


class _FirstGradients:
    """An observer that reads the gradients before the first optimizer step."""

    def __init__(self, read: Callable[[], Gradients]) -> None:
        self._read = read
        self.seen: Gradients = {}

    def on_phase(self, phase: str) -> None:
        if phase == "optimizer_step" and not self.seen:
            self.seen = self._read()

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        pass


def _own_gradients(folder: Path, source: SyntheticBatches, config: TrainConfig) -> Gradients:
    # Not from_pretrained: the texts are synthetic, and the tokenizer knows no words.
    encoder = SpladeEncoder(load_masked_lm(str(folder)), load_tokenizer(str(folder))).double()

    def read() -> Gradients:
        with encoder.whole_model() as model:  # a peer's parameters have that model's names
            return _gradients_by_name(model)

    observer = _FirstGradients(read)
    Trainer(encoder, source, config, observers=[observer]).train()
    return observer.seen


def _peer_gradients(cell: Cell, folder: Path, source: SyntheticBatches, config: TrainConfig) -> Gradients:
    peer = make_peer(cell.trainer, cell.trainer_size, folder, config)
    peer.model.double()
    observer = _FirstGradients(lambda: _gradients_by_name(peer.masked_language_model))
    PeerTrainer(peer, source, config, observers=[observer]).train()
    return observer.seen


def _gradients_by_name(model: nn.Module) -> Gradients:
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
