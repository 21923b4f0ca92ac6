"""What a command line asks a planner, with the device, the budget and the lengths of the texts decided once."""

from __future__ import annotations

import torch

from splade_bench.batching.prompts import Prompts
from splade_bench.batching.sources import TripleBatches
from splade_bench.cli.flags import PlannedFlags, TrainFlags
from splade_bench.cli.sources import corpus_of, load_tokenizer, require_undamaged
from splade_bench.config import MODEL_PRESETS
from splade_bench.data.records import Corpus
from splade_bench.device.devices import available_devices, memory_limit_bytes
from splade_bench.errors import ConfigError
from splade_bench.fields import size_bytes
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.machine import total_memory_bytes
from splade_bench.measure.readings import or_none
from splade_bench.model.saved_settings import saved_prompts
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.requests import PlanRequest, data_bytes, require_start


def plan_request(command: PlannedFlags, *, timed: bool = False) -> PlanRequest:
    """The training of a command line, with the lengths of a usual batch if it is ``timed``.

    Free memory of an accelerator changes, so it is read here, once.

    Raises:
        ConfigError: a flag cannot be used.
        DataError: a training file, or the checkpoint that is the model, is damaged.
    """
    if command.model_name not in MODEL_PRESETS:
        require_undamaged(command.model_name)
    named = command.placement.device
    device_type = available_devices()[0] if named == "auto" else named
    require_start(command.model_name, command.start, command.start_active_dims)
    corpus = _named_corpus(command)
    return PlanRequest(
        model_name=command.model_name,
        config=command.config,
        device_type=device_type,
        budget_bytes=resolve_budget(command.budget, device_type),
        lengths=_lengths(command, corpus, device_type, timed=timed),
        active_share=command.active_share,
        data_bytes=data_bytes(corpus) if corpus and command.train_file else 0,
    )


def resolve_budget(budget: str | None, device_type: str) -> int | None:
    """The bytes of ``--budget``, or else the memory that is available now; None if the device is missing.

    Raises:
        ConfigError: ``budget`` is not a size, or is 0.
    """
    if budget is None:
        if device_type != "cpu":
            return memory_limit_bytes(device_type)
        total_bytes = or_none(total_memory_bytes)
        if total_bytes is None:
            raise ConfigError("this system does not report how much memory it has; give --budget")
        return min(container_limit_bytes() or total_bytes, total_bytes)
    return size_bytes("budget", budget)


def _named_corpus(command: PlannedFlags) -> Corpus | None:
    """The corpus of the command line, with the same errors as ``train``; None if it is not needed."""
    if command.train_file is None and command.lengths == "full":
        return None
    return corpus_of(command)


def planned_batches(command: TrainFlags, corpus: Corpus, device_type: str) -> TripleBatches:
    """The batches of a training whose model is not loaded, with the prompts that it will have.

    Raises:
        ConfigError: the tokenizer or the prompts cannot be loaded.
        DataError: the folder of the model is a checkpoint that is damaged.
    """
    name, config = command.model_name, command.config
    tokenizer = load_tokenizer(name, corpus)
    own = Prompts() if name in MODEL_PRESETS else saved_prompts(name)
    prompts = own.replaced(config.query_prompt, config.document_prompt)
    return TripleBatches.for_config(corpus.triples, tokenizer, config, torch.device(device_type), prompts)


def _lengths(command: PlannedFlags, corpus: Corpus | None, device_type: str, *, timed: bool) -> Lengths:
    if corpus is None or (command.lengths == "full" and not timed):
        return Lengths.full(command.config)
    source = planned_batches(command, corpus, device_type)
    lengths = Lengths.full(command.config) if command.lengths == "full" else Lengths.widest(source)
    return lengths.with_usual(source) if timed else lengths
