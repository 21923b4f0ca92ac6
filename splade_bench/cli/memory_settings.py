"""The memory settings of a training: as given, as saved with a checkpoint, or as a fit chooses them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from splade_bench.batching.sources import TripleBatches
from splade_bench.cli.arguments import given_flags
from splade_bench.cli.planning import planned_batches, resolve_budget
from splade_bench.cli.resuming import fitted_as_saved
from splade_bench.cli.train_command import searched_fields_given, train_arguments
from splade_bench.config import TrainConfig
from splade_bench.data.records import Corpus
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.candidates import EXACT_FIELDS, MINI_BATCHES
from splade_bench.planner.free_memory import (
    fitted_within_free_memory,
    optimizer_steps,
    sized_for_free_memory,
    why_not_to_fit,
)
from splade_bench.planner.process import Fitted, fitted_training
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.requests import PlanRequest, data_bytes
from splade_bench.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from splade_bench.cli.train import TrainCommand

logger = logging.getLogger(__name__)

_ASK_FOR_A_FIT = frozenset({"auto_fit", "budget", "allow_inexact"})
# These say how a batch is computed.
_FORBID_A_FIT = frozenset({"memory_mode", "memory_efficient", *(field.name for field in fields(MemoryConfig))})


def asks_for_a_fit(arguments: Sequence[str]) -> bool:
    """Whether a command line wants settings to be chosen, however long that takes."""
    return not given_flags(arguments).keys().isdisjoint(_ASK_FOR_A_FIT)


def leaves_memory_open(arguments: Sequence[str]) -> bool:
    """Whether a command line neither asks for a fit nor says how a batch is computed."""
    return given_flags(arguments).keys().isdisjoint(_ASK_FOR_A_FIT | _FORBID_A_FIT)


def settled_config(
    command: TrainCommand,
    arguments: Sequence[str],
    checkpoint: Checkpoint | None,
    corpus: Corpus,
    device_type: str,
) -> TrainConfig:
    """The configuration of a run that was saved, or that which a fit chooses because the command line asks for it."""
    asks = command.auto_fit and asks_for_a_fit(arguments)
    if checkpoint and (asks or (command.auto_fit and leaves_memory_open(arguments))):
        given = searched_fields_given(arguments) | given_flags(arguments).keys()
        config = fitted_as_saved(checkpoint, command.config, given, allow_inexact=asks)
        if config != command.config:
            flags = shlex.join(train_arguments(command, config))
            logger.info("settings: as in the checkpoint. The same as: splade-bench train --no-auto-fit %s", flags)
        return config
    if checkpoint and command.auto_fit and _is_accelerator(device_type):
        # Of the settings, the run's beginning chose the size of mini-batches alone.
        given = searched_fields_given(arguments) | (EXACT_FIELDS - {MINI_BATCHES})
        return fitted_as_saved(checkpoint, command.config, given, allow_inexact=False)
    if checkpoint or not asks:
        return command.config
    logger.info("settings: looking for the fastest that fit")
    given = searched_fields_given(arguments)
    request = _plan_request(command, corpus, planned_batches(command, corpus, device_type), device_type)
    request = replace(request, given=given, allow_inexact=command.allow_inexact)
    return _announced(
        command, fitted_training(replace(request, budget_bytes=resolve_budget(command.budget, device_type)))
    )


def config_for_free_memory(
    command: TrainCommand, arguments: Sequence[str], corpus: Corpus, encoder: SpladeEncoder
) -> TrainConfig:
    """The configuration of a new run that asks for no fit.

    On a CPU a fit chooses it for the memory that is free, if the command line leaves that open and a search pays. On an
    accelerator, mini-batches get a size that suits the free memory, unless the command line names one.
    """
    if _is_accelerator(encoder.device.type):
        sized = sized_for_free_memory(command.config, encoder)
        return _announced(command, sized) if sized else command.config
    if not leaves_memory_open(arguments):
        return command.config
    if reason := why_not_to_fit(command.config, corpus.triples, encoder):
        logger.info("settings: the defaults: %s", reason)
        return command.config
    source = TripleBatches.for_config(
        corpus.triples, encoder.tokenizer, command.config, encoder.device, encoder.prompts
    )
    request = _plan_request(command, corpus, source, encoder.device.type)
    return _announced(command, fitted_within_free_memory(request, optimizer_steps(command.config, corpus.triples)))


def _is_accelerator(device_type: str) -> bool:
    return device_type != "cpu"


def _plan_request(command: TrainCommand, corpus: Corpus, source: TripleBatches, device_type: str) -> PlanRequest:
    """The training without a budget. Any text may be as long as allowed; the time is that of a usual batch."""
    return PlanRequest(
        model_name=command.model_name,
        config=command.config,
        device_type=device_type,
        budget_bytes=None,
        lengths=Lengths.full(command.config).with_usual(source),
        active_share=TRAINED_ACTIVE_SHARE,
        data_bytes=data_bytes(corpus) if command.train_file else 0,
    )


def _announced(command: TrainCommand, fitted: Fitted) -> TrainConfig:
    """The configuration of a fit, which is shown as a command line."""
    if fitted.config == command.config:
        logger.info("settings: as given: %s", fitted.settings)
    else:
        flags = shlex.join(train_arguments(command, fitted.config))
        logger.info("settings: %s. The same as: splade-bench train --no-auto-fit %s", fitted.settings, flags)
    return fitted.config
