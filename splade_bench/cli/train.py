"""``splade-bench train``: train a model, save it, evaluate it, and record the run."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from splade_bench.cli.arguments import show
from splade_bench.cli.auto_fit import fitted_training
from splade_bench.cli.flags import TrainFlags, parse_train_command, searched_fields_given, train_arguments
from splade_bench.cli.output import OutputFolder
from splade_bench.cli.planning import PlanRequest, resolve_budget
from splade_bench.cli.progress import Progress, memory_line
from splade_bench.cli.signals import StopSignals
from splade_bench.cli.sources import load_corpus, load_encoder
from splade_bench.config import TrainConfig
from splade_bench.data.records import Corpus
from splade_bench.device.devices import synchronize
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, TrainingError, error_line
from splade_bench.evaluation.evaluator import evaluate, evaluate_bm25
from splade_bench.measure.machine import taken_on
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training.trainer import Trainer, TrainResult
from splade_bench.training.validation import validation_loss
from splade_bench.units import format_seconds

logger = logging.getLogger(__name__)

_LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand(TrainFlags):
    """Train a SPLADE model. Without --train-file it uses the embedded corpus, which takes under a minute on two cores.

    The defaults of some flags depend on --model-name and --memory-mode. For example, a pretrained model has
    --max-length 256, --batch-size 8 and --learning-rate 2e-5. To see the defaults for your choice, run:
    splade-bench train --model-name ... --memory-mode ... --help.

    Ctrl-C and SIGTERM stop the training after the current optimizer step and save the model. A second signal ends the
    process at once, without saving.

    Exit codes:
      0  done
      1  the training failed, or nothing fits with --auto-fit
      2  usage error or bad file
      130, 143  stopped by Ctrl-C or SIGTERM
    """

    auto_fit: bool = False
    """Train with the fastest settings that fit the memory. Settings that you name are kept, as with fit."""
    budget: str | None = None
    """With --auto-fit: memory that the training may take, such as 8GiB. None: as for fit, all memory."""
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
        record, sampler = _train(command, corpus, encoder, signals)
        output.save_model(encoder)
        output.write_record(record)
    if sampler:
        record["memory_tracking"] = _memory_record(sampler, output)
    if not signals.exit_code:
        record |= _quality_record(command, corpus, encoder)
    output.write_record(record)
    show(record, _summary(record, output), as_json=command.json)
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
    logger.info("--auto-fit chose: %s. The same as: splade-bench train %s", fitted.settings, flags)
    return fitted.config


def _train(
    command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder, signals: StopSignals
) -> tuple[dict[str, Any], MemorySampler | None]:
    """Train ``encoder`` in place: the record of the run, and with --memory-tracking memory over time.

    The first of ``signals`` ends the training after the current optimizer step.

    Raises:
        TrainingError: no memory is left, or the loss is not finite.
    """
    peak_rss = PeakRss()
    peak_rss.start()
    tracking = command.output.memory_tracking
    progress = Progress(peak_rss=peak_rss, memory_tracking=tracking)
    trainer = Trainer(encoder, corpus.triples, command.config, observers=[progress])
    signals.on_first = trainer.request_stop
    sampler = MemorySampler(phase=lambda: progress.phase) if tracking else None
    device, steps = encoder.device, trainer.state.max_steps
    logger.info(
        "training %s on %s: %d queries, %d optimizer steps", command.model_name, device.type, len(corpus.triples), steps
    )
    start_s = time.perf_counter()
    try:
        with sampler or nullcontext():
            result = trainer.train()
        synchronize(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(_out_of_memory(command, error, progress.phase)) from error
    finally:
        progress.close()
    wall_time_s = time.perf_counter() - start_s
    peak = peak_rss.read()
    if tracking:
        logger.info("%s", memory_line(peak_rss))
    measured = {"baseline_rss_bytes": peak.start_bytes, "peak_rss_bytes": peak.peak_bytes}
    return _record(command, corpus, encoder, result) | {"wall_time_s": wall_time_s} | measured, sampler


def _memory_record(sampler: MemorySampler, output: OutputFolder) -> dict[str, Any]:
    """Memory over time, which is drawn too."""
    from splade_bench.report.plots import plot_timeline  # loads matplotlib: after the training, not in its memory

    plot_timeline(sampler.timeline, output.timeline)
    logger.info("memory timeline: %s", output.timeline)
    return {
        "sampled_peak_rss_bytes": sampler.timeline.peak_bytes,
        "sampler_cpu_time_s": sampler.cpu_time_s,
        "sampler_wall_time_s": sampler.wall_time_s,
        "timeline": str(output.timeline),
        "samples": sampler.timeline.samples,
    }


def _quality_record(command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder) -> dict[str, Any]:
    """Retrieval metrics of the trained model and of BM25; nothing without held-out queries."""
    if corpus.test is None:
        logger.info("the model is not evaluated: there is no --val-file")
        return {}
    logger.info("evaluating on %d queries and %d documents", len(corpus.test.queries), len(corpus.test.corpus))
    return {
        "metrics": evaluate(encoder, corpus.test, max_length=command.config.max_length),
        "validation_loss": validation_loss(encoder, corpus.test_triples, command.config),
        "bm25": evaluate_bm25(corpus.test),
    }


def _record(command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder, result: TrainResult) -> dict[str, Any]:
    return {
        "status": "interrupted" if result.interrupted else "ok",
        "model_name": command.model_name,
        "model_folder": str(OutputFolder(command.output.output_dir).model),
        "device": encoder.device.type,
        "config": command.config.to_dict(),
        "final_loss": result.final_loss,
        "losses": result.losses,
        "optimizer_steps": result.global_step,
        "queries_seen": result.queries_seen,
        "corpus_sha256": corpus.sha256,
        **taken_on(),
    }


def _out_of_memory(command: TrainCommand, error: BaseException, phase: str) -> str:
    advice = (
        "remove --memory-mode or --head, whichever you gave: the default head never makes all logits"
        if command.config.memory.head == "eager"
        else "run splade-bench fit with these flags and a --budget to find settings that fit, or try "
        "--optimizer-states disk, --activation-checkpointing, a smaller --max-length or a smaller --batch-size"
    )
    return f"out of memory during {phase}: {error_line(error)[:_LONGEST_REASON]}; {advice}"


def _summary(record: Mapping[str, Any], output: OutputFolder) -> str:
    line = f"trained {record['optimizer_steps']} optimizer steps in {format_seconds(record['wall_time_s'])}"
    if record["final_loss"] is not None:
        line += f", final loss {record['final_loss']:.3f}"
    if "metrics" in record:
        line += f"\nMRR@10 {record['metrics']['mrr@10']:.3f} (BM25 {record['bm25']['mrr@10']:.3f})"
    return f"{line}\nmodel: {record['model_folder']}\nrecord: {output.record}"
