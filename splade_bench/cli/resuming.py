"""Which checkpoint ``--resume-from-checkpoint`` means."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import msgspec

from splade_bench.cli.output import OutputFolder
from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError, DataError
from splade_bench.training.checkpoints import Checkpoint
from splade_bench.training.early_stopping import BestMetric
from splade_bench.training.run_state import read_saved_run

logger = logging.getLogger(__name__)

_FLAG = "--resume-from-checkpoint"


def goes_on_in(output: OutputFolder, named: str | None) -> bool:
    """Whether the run to go on with is that of this folder; the path of a checkpoint may be in another one."""
    return named in ("latest", "best") or (named is not None and Path(named).resolve().parent == output.path.resolve())


def find_checkpoint(named: str | None, output: OutputFolder) -> Checkpoint | None:
    """The checkpoint to go on from, complete and undamaged; None to begin at the beginning.

    ``latest`` passes over damaged checkpoints with a warning. Where there is none yet it means the beginning, so that
    a scheduler can start and restart a run with one command.

    Raises:
        ConfigError: there is no such checkpoint.
        DataError: it is damaged.
    """
    if named is None:
        return None
    if named == "latest":
        return _latest(output)
    checkpoint = _best(output) if named == "best" else Checkpoint.at(Path(named))
    checkpoint.verify()
    return checkpoint


def saved_config(checkpoint: Checkpoint, config: TrainConfig) -> TrainConfig:
    """The configuration of the saved run, with the length of ``config``.

    Raises:
        DataError: the checkpoint cannot be read.
    """
    try:
        saved = msgspec.convert(read_saved_run(checkpoint.path).config, TrainConfig)
    except msgspec.ValidationError as error:
        raise DataError(f"{checkpoint.path}: is not a checkpoint of this version: {error}") from error
    return replace(saved, max_steps=config.max_steps, epochs=config.epochs)


def _latest(output: OutputFolder) -> Checkpoint | None:
    found = output.checkpoints.newest_sound()
    if found is None:
        if damaged := output.checkpoints.all():
            raise ConfigError(
                f"{_FLAG} latest: all checkpoints in {output.path} are damaged, {damaged[-1].path.name} too; name "
                "another folder, or add --overwrite without this flag to start anew"
            )
        if os.path.lexists(output.model):
            raise ConfigError(
                f"{_FLAG} latest: {output.path} has a {output.model.name} but no checkpoint to go on from; name "
                "another folder, or add --overwrite without this flag to train anew"
            )
        logger.info("%s latest: %s has no checkpoint yet; starting at the beginning", _FLAG, output.path)
    return found


def _best(output: OutputFolder) -> Checkpoint:
    newest = output.checkpoints.newest_sound()
    observers = read_saved_run(newest.path).observers if newest else {}
    step = observers.get(BestMetric.__name__, {}).get("best_step")
    found = output.checkpoints.get(step) if step is not None else None
    if found is None:
        raise ConfigError(f"{_FLAG} best: {output.path} has no best checkpoint; --save-best keeps one. Name latest")
    return found
