"""The settings and the place of a saved run, as JSON, and whether another run may go on from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError, DataError
from splade_bench.fields import option
from splade_bench.json_records import finite_or_none, parse_record
from splade_bench.memory_modes import MemoryConfig
from splade_bench.training.state import TrainState
from splade_bench.training.trainer import Trainer

logger = logging.getLogger(__name__)

STATE_NAME = "trainer_state.json"
# A resumed run may have other values of these: more steps, or another way to compute the same gradients.
_MAY_CHANGE = frozenset(
    {"max_steps", "epochs"} | {field.name for field in fields(MemoryConfig)} - {"attention_dropout"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedRun:
    """The contents of ``trainer_state.json``."""

    state: TrainState
    config: dict[str, Any]
    inputs: dict[str, str | None]
    """Flag -> what it named in the run that was saved: the model, a hash of the data."""
    device: str
    threads: int
    torch_version: str
    loss_scale_factor: float
    loss_scale_steps: int
    optimizer_steps: dict[str, int]
    """Name of a parameter -> its updates."""
    observers: dict[str, dict[str, Any]]
    """Class of an observer -> its state."""
    python_random_state: list[Any]
    numpy_random_state: list[Any]
    """Without its keys, which are a tensor."""
    processes: int = 1


def read_saved_run(folder: Path) -> SavedRun:
    """The state in a checkpoint.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / STATE_NAME
    try:
        return parse_record(json.loads(path.read_bytes()), SavedRun)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not the state of a training: {error}") from error


def require_same_run(trainer: Trainer, folder: Path, inputs: Mapping[str, str | None]) -> None:
    """Refuse to go on with other data, or with another setting that changes what is learned.

    Raises:
        ConfigError: it names each flag with its value before and now.
        DataError: the checkpoint cannot be read.
    """
    saved, config, max_steps = read_saved_run(folder), trainer.config, trainer.state.max_steps
    where = f"--resume-from-checkpoint {folder}"
    now = _flat(finite_or_none(config.to_dict()))  # as JSON has it
    # A setting that an earlier version did not have was what its default is now.
    earlier = TrainConfig(similarity="dot", temperature=1.0)
    before = _flat(finite_or_none(earlier.to_dict())) | _flat(saved.config)
    changed = [
        f"{option(name)} was {before.get(name)} and is {now[name]}"
        for name in now
        if name not in _MAY_CHANGE and before.get(name) != now[name]
    ]
    states = before.get("optimizer_states"), now["optimizer_states"]
    if states[0] != states[1] and "bfloat16" in states:
        changed.append(f"--optimizer-states was {states[0]} and is {states[1]}")
    changed += [
        f"{flag} was {saved.inputs.get(flag)} and is {value}"
        for flag, value in inputs.items()
        if saved.inputs.get(flag) != value
    ]
    if changed:
        advice = "give it as before, or start a new run in another --output-dir"
        raise ConfigError(f"{where}: {'; '.join(changed)}; {advice}")
    if max_steps < saved.state.max_steps:
        change = f"the run had {saved.state.max_steps} optimizer steps and has {max_steps} now"
        raise ConfigError(f"{where}: {change}, but it may only grow; raise --max-steps or --epochs")


def rounding_conditions(trainer: Trainer) -> dict[str, Any]:
    """What decides how sums are rounded, by field of :class:`SavedRun`."""
    return {
        "device": trainer.encoder.device.type,
        "processes": trainer.processes.size,
        "threads": torch.get_num_threads(),
        "torch_version": str(torch.__version__),
    }


def warn_of_other_rounding(saved: SavedRun, trainer: Trainer) -> None:
    """Say what makes sums round differently: the run goes on, but not bit for bit."""
    now = rounding_conditions(trainer)
    before = {name: getattr(saved, name) for name in now}
    changed = [f"{name} {before[name]} -> {value}" for name, value in now.items() if before[name] != value]
    if changed:
        logger.warning("the run goes on, but its numbers may differ in their last digits: %s", ", ".join(changed))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration and of its memory settings, by name."""
    return {name: value for name, value in config.items() if name != "memory"} | dict(config["memory"])
