"""``splade-bench train``: train a model, save it, evaluate it, and record the run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from splade_bench.cli.arguments import print_json
from splade_bench.cli.auto_fit import fitted_training
from splade_bench.cli.flags import TrainFlags, parse_train_command, searched_fields_given, train_arguments
from splade_bench.cli.output import OutputFolder
from splade_bench.cli.planning import PlanRequest, resolve_budget
from splade_bench.cli.signals import StopSignals
from splade_bench.cli.sources import load_corpus, load_encoder
from splade_bench.cli.training_run import memory_record, quality_record, train
from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.rehearsal import Lengths
from splade_bench.units import format_seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand(TrainFlags):
    """Train a SPLADE model. Without --train-file it uses the embedded corpus, which takes under a minute on two cores.

    The defaults of other flags depend on --model-name and --memory-mode. Give these two with --help to see the others'
    defaults: for example, a pretrained model has --max-length 256, --batch-size 8 and --learning-rate 2e-5.

    Ctrl-C and SIGTERM stop it after the current optimizer step, and the model is saved. A second signal ends it at
    once.

    Exit codes:
      0  done
      1  the training failed, or nothing fits with --auto-fit
      2  usage error or bad file
      130, 143  stopped by Ctrl-C or SIGTERM
    """

    auto_fit: bool = False
    """Train with the fastest settings that fit the memory. Settings that you name are kept, as with fit."""
    budget: str | None = None
    """With --auto-fit: memory that the training may take, as 8GiB. None: the memory that is available."""
    allow_inexact: bool = False
    """With --auto-fit: also consider settings that change the gradient."""

    def __post_init__(self) -> None:
        for flag, value in (("--budget", self.budget), ("--allow-inexact", self.allow_inexact)):
            if value and not self.auto_fit:
                raise ConfigError(f"{flag} has no effect without --auto-fit; add --auto-fit, or remove {flag}")


def run(arguments: Sequence[str]) -> int:
    """Train, save and evaluate; the exit code. The model is saved before anything else can fail."""
    command = parse_train_command(TrainCommand, arguments, verb="train")
    output = OutputFolder(command.output.output_dir)
    output.prepare(overwrite=command.output.overwrite)
    device = command.placement.resolve()
    if command.auto_fit:
        given = searched_fields_given(arguments)
        command = replace(command, config=_fitted_config(command, given, device_type=device.type))
    corpus = load_corpus(command.train_file, command.val_file, need_negatives=command.config.negatives_per_query > 0)
    encoder = load_encoder(command.model_name, corpus, seed=command.config.seed).to(device)
    encoder.tokenizer.model_max_length = command.config.max_length
    with StopSignals() as signals:
        record, sampler = train(command, corpus, encoder, signals)
        output.save_model(encoder)
        output.write_record(record)
    if sampler:
        record["memory_tracking"] = memory_record(sampler, output)
    if not signals.exit_code:
        record |= quality_record(command, corpus, encoder)
    output.write_record(record)
    if command.json:
        print_json(record)
    else:
        _print_summary(record, output)
    return signals.exit_code


def _fitted_config(command: TrainCommand, given: frozenset[str], *, device_type: str) -> TrainConfig:
    """The configuration that ``fit`` chooses for this training on the device that it gets."""
    logger.info("--auto-fit: looking for the fastest settings that fit")
    request = PlanRequest(
        model_name=command.model_name,
        config=command.config,
        device_type=device_type,
        budget_bytes=resolve_budget(command.budget, device_type),
        lengths=Lengths.full(command.config),
        active_share=TRAINED_ACTIVE_SHARE,
        given=given,
        allow_inexact=command.allow_inexact,
    )
    fitted = fitted_training(request)
    flags = shlex.join(train_arguments(command, fitted.config))
    logger.info("--auto-fit: %s; splade-bench train %s", fitted.settings, flags)
    return fitted.config


def _print_summary(record: Mapping[str, Any], output: OutputFolder) -> None:
    loss = record["final_loss"]
    print(f"trained {record['optimizer_steps']} optimizer steps in {format_seconds(record['wall_time_s'])}", end="")
    print(f", final loss {loss:.3f}" if loss is not None else "")
    if "metrics" in record:
        print(f"MRR@10 {record['metrics']['mrr@10']:.3f} (BM25 {record['bm25']['mrr@10']:.3f})")
    print(f"model: {record['model_folder']}\nrecord: {output.record}")
