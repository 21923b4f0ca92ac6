"""``splade-bench train``: train a model, save it, evaluate it, and record the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from splade_bench.cli.arguments import show
from splade_bench.cli.cards import add_to_card
from splade_bench.cli.flags import TrainFlags
from splade_bench.cli.memory_settings import asks_for_a_fit, config_for_free_memory, settled_config
from splade_bench.cli.output import OutputFolder
from splade_bench.cli.progress import memory_line
from splade_bench.cli.resuming import find_checkpoint, goes_on_in
from splade_bench.cli.several_processes import follow, lead, processes_of, refuse_processes_flag
from splade_bench.cli.signals import StopSignals
from splade_bench.cli.sources import corpus_of, give_static_queries
from splade_bench.cli.starting import started_encoder
from splade_bench.cli.train_command import parse_train_command, refuse_query_learning_rate
from splade_bench.cli.training_run import TrainingRun
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, DataError, TrainingError, error_line
from splade_bench.evaluation.evaluator import evaluate_bm25
from splade_bench.measure.machine import taken_on
from splade_bench.measure.timeline import MemorySampler
from splade_bench.report.formatting import MISSING
from splade_bench.training.faults import out_of_memory
from splade_bench.training.first_batch import report_first_batch
from splade_bench.training.first_vectors import report_first_vectors
from splade_bench.training.together import OneProcess, SeveralProcesses
from splade_bench.units import format_seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand(TrainFlags):
    """Train a SPLADE model. Without --train-file it uses the embedded corpus, which takes under a minute on two cores.

    The defaults of some flags depend on --model-name and --memory-mode. For example, a pretrained model has
    --max-length 256, --batch-size 8 and --learning-rate 2e-5. To see the defaults for your choice, run:
    splade-bench train --model-name ... --memory-mode ... --help.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the training at the next mini-batch and save the last complete
    optimizer step, as a checkpoint and as final_model. Ctrl-C or SIGTERM a second time ends the process at once.

    Exit codes:
      0  done
      1  the training failed, or nothing fits with --auto-fit, --budget or --allow-inexact
      2  usage error or bad file
      3  the planner itself failed with --auto-fit, --budget or --allow-inexact
      128 + n  stopped by signal n, such as 130 for Ctrl-C and 143 for SIGTERM
    """

    auto_fit: bool = True
    """Train with the fastest settings that fit the memory, as fit chooses them. Settings that you name are kept. By
    default this is done on a CPU, if you name neither --memory-mode nor a memory setting, and if it takes at most 3 %
    of the training. With --auto-fit, --budget or --allow-inexact it is always done, and with --no-auto-fit never. A
    resumed run keeps the settings of its checkpoint."""
    budget: str | None = None
    """Memory that the training may take, such as 8GiB. None: what is free on the machine now; with --auto-fit or
    --allow-inexact, all memory of the machine or container, or the free memory of an accelerator."""
    allow_inexact: bool = False
    """Let the fit also consider settings that change the gradient."""

    def __post_init__(self) -> None:
        for flag, value in (("--budget", self.budget), ("--allow-inexact", self.allow_inexact)):
            if value and not self.auto_fit:
                raise ConfigError(f"{flag} has no effect with --no-auto-fit; remove one of the two")


def run(arguments: Sequence[str]) -> int:
    """Train, save and evaluate; the exit code. The model is saved before anything else can fail."""
    refuse_processes_flag(arguments)
    command = parse_train_command(TrainCommand, arguments, verb="train")
    device = command.placement.resolve()
    with processes_of(command, arguments, device) as processes:
        if isinstance(processes, SeveralProcesses) and processes.rank:
            return follow(command, processes, device)
        return _run(command, arguments, device, processes)


def _run(command: TrainCommand, arguments: Sequence[str], device: torch.device, processes: OneProcess) -> int:
    output, named = OutputFolder(command.output.output_dir), command.saving.resume_from_checkpoint
    output.prepare(overwrite=command.output.overwrite, resuming=goes_on_in(output, named))
    checkpoint = find_checkpoint(named, output)
    corpus = corpus_of(command)
    if checkpoint or asks_for_a_fit(arguments):
        command = replace(command, config=settled_config(command, arguments, checkpoint, corpus, device.type))
    encoder = started_encoder(command, corpus, checkpoint, device)
    # On one machine, several processes would each be given all of its free memory.
    shares_memory = processes.size > 1 and device.type == "cpu"
    if not checkpoint and command.auto_fit and not asks_for_a_fit(arguments) and not shares_memory:
        command = replace(command, config=config_for_free_memory(command, arguments, corpus, encoder))
    lead(command, processes, corpus, checkpoint)
    if command.config.query_encoder == "static" and not checkpoint and encoder.static_queries is None:
        give_static_queries(encoder, corpus)
    if encoder.static_queries is None and command.config.query_encoder is None:
        refuse_query_learning_rate(arguments)
    encoder.tokenizer.model_max_length = command.config.max_length
    training = TrainingRun(command, corpus, encoder, output, checkpoint, processes)
    with closing(training):
        record, code = _train(command, training)
        if not code:
            record |= (quality := _quality_record(training))
            add_to_card(training, quality)
        _write_record(output, record)
    show(record, _summary(record, output), as_json=command.json)
    return code


def _train(command: TrainCommand, training: TrainingRun) -> tuple[dict[str, Any], int]:
    """Train and save; the record, which is written too, and the exit code. The first signal ends the training.

    Raises:
        TrainingError: no memory is left, the loss is not finite, the vectors collapsed, the model cannot be saved.
    """
    trainer, progress = training.trainer, training.progress
    sampler = MemorySampler(phase=lambda: progress.phase) if command.output.memory_tracking else None
    logger.info(
        "training %s on %s: %d queries, %d optimizer steps",
        *(command.model_name, training.encoder.device.type, len(training.corpus.triples), trainer.state.max_steps),
    )
    setup = _setup(training)
    _write_record(
        training.output, _record(training, setup) | {"status": "running"}
    )  # true even if the process is killed
    try:
        with StopSignals() as signals:
            signals.on_first = trainer.request_stop
            with sampler or nullcontext():
                training.train()
            with trainer.processes.on_rank_0(trainer.state):
                training.save()
    except Exception as error:
        reason = error_line(error)
        if is_out_of_memory(error):
            phase = progress.phase if trainer.step_batches else "evaluation or saving"
            reason = out_of_memory(trainer, error, phase, can_halve=command.faults.on_oom != "halve")
        record = _record(training, setup) | {"status": "failed", "stop_reason": reason}
        _write_record(training.output, record)
        if command.json:
            show(record, "", as_json=True)
        if isinstance(error, DataError):  # the training file was changed
            raise DataError(f"{reason}{training.way_on(error)}") from error
        if is_out_of_memory(error) or isinstance(error, TrainingError):
            raise TrainingError(f"{reason}{training.way_on(error)}") from error
        raise
    record = _record(training, setup)
    _write_record(training.output, record)  # nothing that follows can cost it
    if sampler:
        logger.info("%s", memory_line(training.peak_rss))
        try:
            record["memory_tracking"] = _memory_record(sampler, training.output)
        except Exception as error:  # a picture must not end a run whose model is saved
            logger.warning("--memory-tracking: cannot be drawn: %s", error_line(error))
            record["memory_tracking"] = None
    return record, signals.exit_code


def _memory_record(sampler: MemorySampler, output: OutputFolder) -> dict[str, Any]:
    """Memory over time, which is drawn too."""
    from splade_bench.report.plots import plot_timeline  # loads matplotlib: after the training, not in its memory

    plot_timeline(sampler.timeline, output.timeline)
    logger.info("memory timeline: %s", output.timeline)
    return {
        "sampled_peak_rss_bytes": sampler.peak_bytes,
        "sampler_cpu_time_s": sampler.cpu_time_s,
        "sampler_wall_time_s": sampler.wall_time_s,
        "timeline": str(output.timeline),
        "samples": sampler.timeline.samples,
    }


def _quality_record(training: TrainingRun) -> dict[str, Any]:
    """Retrieval metrics of the trained model and of BM25; nothing without held-out queries.

    Raises:
        TrainingError: the evaluation failed. The model is saved.
    """
    corpus = training.corpus
    if corpus.test is None:
        logger.info("the model is not evaluated: there is no --val-file")
        return {}
    logger.info("evaluating on %d queries and %d documents", len(corpus.test.queries), len(corpus.test.corpus))
    try:
        metrics = dict(training.evaluate())
        return {
            "validation_loss": metrics.pop("validation_loss"),
            "metrics": metrics,
            "bm25": evaluate_bm25(corpus.test),
        }
    except Exception as error:
        raise TrainingError(
            f"the model is saved in {training.output.model}, but its evaluation failed: {error_line(error)}; try "
            f"splade-bench evaluate --model-name {training.output.model}"
        ) from error


def _write_record(output: OutputFolder, record: Mapping[str, Any]) -> None:
    try:
        output.write_record(record)
    except OSError as error:
        logger.warning("%s: cannot be written: %s", output.record, error_line(error))


def _record(training: TrainingRun, setup: Mapping[str, Any]) -> dict[str, Any]:
    """The run as it is now."""
    folder = str(training.output.model) if training.model_is_saved else None
    return {**training.record(), **training.trainer.processes.record(), "model_folder": folder, **setup}


def _setup(training: TrainingRun) -> dict[str, Any]:
    """The part of the record that a run begins and ends with. It is read once: it asks git and hashes the package."""
    command, encoder, triples = training.command, training.encoder, training.corpus.triples
    first_vectors = None
    if training.resumed_from is None:
        report_first_batch(training.trainer.source, command.config)
        first_vectors = report_first_vectors(encoder, triples, max_length=command.config.max_length)
    return {
        "model_name": command.model_name,
        "start": command.start,
        "start_active_dims": None if command.start == "as-is" else command.start_active_dims,
        "first_vectors": first_vectors,
        "device": training.encoder.device.type,
        "config": training.trainer.config.to_dict(),
        "corpus_sha256": training.corpus.sha256,
        "skipped_records": training.corpus.skipped_records,
        "skipped_negatives": training.corpus.skipped_negatives,
        "skipped_reasons": training.corpus.skipped_reasons,
        **taken_on(),
    }


def _summary(record: Mapping[str, Any], output: OutputFolder) -> str:
    line = f"trained {record['optimizer_steps']} optimizer steps in {format_seconds(record['wall_time_s'])}"
    if record["final_loss"] is not None:
        line += f", final loss {record['final_loss']:.3f}"
    if "metrics" in record:
        bm25 = f"{record['bm25']['mrr@10']:.3f}" if record["bm25"] else MISSING
        line += f"\nMRR@10 {record['metrics']['mrr@10']:.3f} (BM25 {bm25})"
    if record["model_folder"]:
        line += f"\nmodel: {record['model_folder']}"
    if record["status"] == "interrupted" and record["checkpoint"]:
        line += f"\ncheckpoint: {record['checkpoint']} (go on with --resume-from-checkpoint)"
    return f"{line}\nrecord: {output.record}"
