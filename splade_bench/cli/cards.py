"""The README.md of the model that a training saves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from splade_bench.errors import error_line
from splade_bench.model.model_card import model_card

if TYPE_CHECKING:
    from splade_bench.cli.training_run import TrainingRun

logger = logging.getLogger(__name__)


def card_of(training: TrainingRun, quality: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The card of a run as it is now, with the figures of an evaluation."""
    command = training.command
    known = {
        "model_name": command.model_name,
        "device": training.encoder.device.type,
        "config": training.trainer.config.to_dict(),
        "corpus_sha256": training.corpus.sha256,
    }
    return model_card({**training.record(), **known, **quality})


def add_to_card(training: TrainingRun, quality: Mapping[str, Any]) -> None:
    """Add the figures of an evaluation to the card of the saved model."""
    if not quality or not training.model_is_saved:
        return
    try:
        training.output.write_card(card_of(training, quality))
    except OSError as error:
        logger.warning("%s: its README.md has no metrics: %s", training.output.model, error_line(error))
