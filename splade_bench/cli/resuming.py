"""Which checkpoint ``--resume-from-checkpoint`` means."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from splade_bench.cli.output import OutputFolder
from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError, DataError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.candidates import EXACT_FIELDS, SEARCHED_FIELDS
from splade_bench.training.checkpoints import Checkpoint, Checkpoints
from splade_bench.training.early_stopping import BestMetric
from splade_bench.training.run_state import load_weights
from splade_bench.training.saved_run import read_saved_run

logger = logging.getLogger(__name__)

_FLAG = "--resume-from-checkpoint"
# A fit may cut a batch into several, if that is allowed.
_OF_THE_BATCH = frozenset({"batch_size", "gradient_accumulation_steps"})


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


def fitted_as_saved(
    checkpoint: Checkpoint, config: TrainConfig, given: frozenset[str], *, allow_inexact: bool
) -> TrainConfig:
    """``config`` with the settings that a fit chose for the saved run, but for those ``given`` now.

    Without ``allow_inexact``, the fit chose none that changes the gradient.

    Raises:
        ConfigError: the checkpoint has a value that cannot be used.
        DataError: the checkpoint cannot be read.
    """
    saved = read_saved_run(checkpoint.path).config
    chosen = (SEARCHED_FIELDS | _OF_THE_BATCH if allow_inexact else EXACT_FIELDS) - given
    try:
        if saved["memory"]["optimizer_states"] == "bfloat16" and not allow_inexact:
            chosen -= {"optimizer_states"}
        memory = asdict(config.memory) | {name: value for name, value in saved["memory"].items() if name in chosen}
        run: dict[str, Any] = {name: msgspec.convert(saved[name], int) for name in _OF_THE_BATCH & chosen}
        return replace(config, memory=msgspec.convert(memory, MemoryConfig), **run)
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise DataError(f"{checkpoint.path}: is not a checkpoint of this version: {error}") from error


def load_best_weights(encoder: SpladeEncoder, step: int, folders: Sequence[Path]) -> bool:
    """Give ``encoder`` the weights after optimizer step ``step``; False, with a warning, if none has them."""
    found = [checkpoint for folder in folders if (checkpoint := Checkpoints(folder).get(step))]
    try:
        if not found:
            raise DataError(f"there is no checkpoint of optimizer step {step}")
        found[0].verify()
        load_weights(encoder, found[0].path)
    except (ConfigError, DataError) as error:
        logger.warning("--load-best-model-at-end: %s; the last weights are saved instead", error)
        return False
    logger.info("--load-best-model-at-end: the weights are those of optimizer step %d", step)
    return True


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
