"""``splade-bench train``: data and flags in, a model folder and the record of the run out."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from splade_bench.cli.arguments import parse, print_json
from splade_bench.cli.models import Placement, load_corpus, load_encoder
from splade_bench.cli.progress import Progress, memory_line
from splade_bench.cli.signals import StopSignals
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.records import Corpus
from splade_bench.device.devices import synchronize
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, TrainingError
from splade_bench.evaluation.evaluator import evaluate, evaluate_bm25
from splade_bench.files import write_whole_file
from splade_bench.measure.machine import commit, machine_info, source_tree, versions
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.report.plots import plot_timeline
from splade_bench.results.records import finite_or_none
from splade_bench.training.trainer import Trainer, TrainResult
from splade_bench.training.validation import validation_loss
from splade_bench.units import format_seconds

logger = logging.getLogger(__name__)

MODEL_FOLDER = "final_model"
RECORD_NAME = "run.json"
TIMELINE_NAME = "memory-timeline.svg"

# What random weights on short texts want, where the library's defaults suit a pretrained model. Chosen on the
# development split of the embedded corpus.
PRESET_DEFAULTS: Mapping[str, Any] = {"max_length": 64, "batch_size": 32, "learning_rate": 5e-4}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """The flags of a training, which plan and fit take too."""

    model_name: str = "tiny"
    """A preset with random weights (tiny, mini, base), a local model folder, or a Hub id."""
    train_file: Path | None = None
    """JSON list or JSON Lines of {"query", "positive_document", "negative_documents"}; the last may be left out with
    --negatives-per-query 0."""
    val_file: Path | None = None
    """The same format; the trained model is evaluated on it."""
    output_dir: Path = Path("splade-output")
    """Folder for final_model, run.json and the memory timeline."""
    overwrite: bool = False
    """Replace what an earlier run left in --output-dir."""
    placement: Placement = field(default_factory=Placement)
    config: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand(TrainFlags):
    """Train a SPLADE model: without --train-file on the embedded corpus, in under a minute on two cores.

    The defaults shown are those of a preset; a pretrained --model-name has --max-length 256, --batch-size 8 and
    --learning-rate 2e-5.

    Exit codes: 0 done; 1 the run failed, or nothing fits with --auto-fit; 2 usage or a bad file; 130 or 143 stopped by
    a signal: the optimizer step under way is finished and the model saved, a second signal ends at once.
    """

    auto_fit: bool = False
    """Train with the fastest settings that fit the memory, as fit chooses them. Flags that are given are kept."""
    budget: str | None = None
    """With --auto-fit: memory that the run may take, as 8GiB. None: what there is."""
    allow_inexact: bool = False
    """With --auto-fit: also settings that change the gradient, where they are faster or nothing else fits."""


def run(arguments: Sequence[str]) -> int:
    """Train, save, evaluate; the exit code. The model is on the disk before anything else can go wrong."""
    command = parse_train_command(TrainCommand, arguments, verb="train")
    _require_auto_fit(command)
    _prepare_output(command)
    device = command.placement.resolve()
    if command.auto_fit:
        command = replace(command, config=_fitted_config(arguments, device_type=device.type))
    corpus = load_corpus(command.train_file, command.val_file, need_negatives=command.config.negatives_per_query > 0)
    encoder = load_encoder(command.model_name, corpus, seed=command.config.seed).to(device)
    encoder.tokenizer.model_max_length = command.config.max_length
    sampler = None
    with StopSignals() as signals:
        record, sampler = _train(command, corpus, encoder, signals)
        _save_model(command, encoder)
        _write_record(command, record)
    if sampler:
        record["memory_tracking"] = _tracking(command, sampler)
    if not signals.exit_code:
        record |= _quality(command, corpus, encoder)
    _write_record(command, record)
    if command.placement.json:
        print_json(record)
    else:
        _print_summary(command, record)
    return signals.exit_code


def _require_auto_fit(command: TrainCommand) -> None:
    for flag, value in (("--budget", command.budget), ("--allow-inexact", command.allow_inexact)):
        if value and not command.auto_fit:
            raise ConfigError(f"{flag}: says what --auto-fit may choose; add --auto-fit, or leave it out")


def _fitted_config(arguments: Sequence[str], *, device_type: str) -> TrainConfig:
    """What fit chooses for the flags of this training, on the device that it really gets.

    Asked in a process of its own: what plans leave behind would be part of this one's memory.
    """
    logger.info("--auto-fit: looking for the fastest settings that fit")
    flags = [argument for argument in arguments if argument.replace("_", "-") not in ("--auto-fit", "--json")]
    finished = subprocess.run(
        (sys.executable, "-m", "splade_bench", "fit", "--json", *flags, "--device", device_type),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    complaint = finished.stderr.strip().rpartition("\n")[2].partition("fit: ")[2]
    if finished.returncode == ConfigError.exit_code:
        raise ConfigError(complaint)
    if not finished.stdout:
        raise TrainingError(f"--auto-fit: {complaint or 'fit ended without an answer'}")
    answer = json.loads(finished.stdout)
    if not answer["fits"]:
        raise TrainingError(f"--auto-fit: {answer['verdict']}")
    logger.info("--auto-fit: %s; %s", answer["settings"], answer["command"])
    return parse_train_command(TrainCommand, answer["train_arguments"], verb="train").config


_Command = TypeVar("_Command", bound=TrainFlags)


def parse_train_command(
    command: type[_Command],
    arguments: Sequence[str],
    *,
    verb: str,
    start: Callable[[TrainConfig], TrainConfig] = lambda config: config,
) -> _Command:
    """Parse twice: the model and the memory mode decide the defaults of the other flags, which ``start`` may change."""
    named = parse(command, arguments, verb=verb, default=train_defaults(command, "tiny", Placement()))
    default = train_defaults(command, named.model_name, named.placement)
    return parse(command, arguments, verb=verb, default=replace(default, config=start(default.config)))


def train_defaults(command: type[_Command], model_name: str, placement: Placement) -> _Command:
    """What a command line means that names nothing but this model and the memory mode of ``placement``."""
    values = PRESET_DEFAULTS if model_name in MODEL_PRESETS else {}
    return command(config=TrainConfig(**values, memory=placement.memory_row))


def _prepare_output(command: TrainCommand) -> None:
    """Find out before the training that its result can be written, and that it replaces nothing unasked."""
    if os.path.lexists(command.output_dir / MODEL_FOLDER) and not command.overwrite:
        raise ConfigError(f"--output-dir {command.output_dir}: holds a {MODEL_FOLDER}; name another, or --overwrite")
    try:
        command.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=command.output_dir):
            pass
    except OSError as error:
        raise ConfigError(f"--output-dir {command.output_dir}: cannot be written to: {error.strerror}") from error


def _train(
    command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder, signals: StopSignals
) -> tuple[dict[str, Any], MemorySampler | None]:
    peak_rss = PeakRss()
    peak_rss.start()
    tracking = command.placement.memory_tracking
    progress = Progress(peak_rss=peak_rss, memory_tracking=tracking)
    trainer = Trainer(encoder, corpus.triples, command.config, observers=[progress])
    signals.on_first(trainer.request_stop)
    sampler = MemorySampler(phase=lambda: progress.phase) if tracking else None
    logger.info(
        "training %s on %s: %d queries, %d optimizer steps",
        command.model_name,
        encoder.device.type,
        len(corpus.triples),
        trainer.state.max_steps,
    )
    start_s = time.perf_counter()
    try:
        with sampler or nullcontext():
            result = trainer.train()
        synchronize(encoder.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(command, error, progress.phase) from error
    finally:
        progress.close()
    wall_time_s = time.perf_counter() - start_s
    peak = peak_rss.read()
    if tracking:
        logger.info("%s", memory_line(peak_rss))
    record = _record(command, corpus, encoder, result) | {
        "wall_time_s": wall_time_s,
        "baseline_rss_bytes": peak.baseline_bytes,
        "peak_rss_bytes": peak.peak_bytes,
    }
    return record, sampler


def _out_of_memory(command: TrainCommand, error: BaseException, phase: str) -> TrainingError:
    reason = " ".join(str(error).split())[:200]
    advice = (
        "leave --memory-mode and --head out: the default makes no logits"
        if command.config.memory.head == "eager"
        else "splade-bench fit with these flags and a --budget says what fits; by hand: --optimizer-states disk, "
        "--activation-checkpointing, a smaller --max-length, a smaller --batch-size"
    )
    return TrainingError(f"out of memory during {phase}: {reason}; {advice}", status="oom")


def _record(command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder, result: TrainResult) -> dict[str, Any]:
    return {
        "status": "interrupted" if result.interrupted else "ok",
        "model_name": command.model_name,
        "model_folder": str(command.output_dir / MODEL_FOLDER),
        "device": encoder.device.type,
        "config": command.config.to_dict(),
        "final_loss": result.final_loss,
        "losses": result.losses,
        "optimizer_steps": result.global_step,
        "queries_seen": result.queries_seen,
        "corpus_sha256": corpus.sha256,
        "commit": commit(),
        "source_tree": source_tree(),
        "machine": machine_info(),
        "versions": versions(),
    }


def _tracking(command: TrainCommand, sampler: MemorySampler) -> dict[str, Any]:
    """The sampler's findings, and the timeline drawn beside the record."""
    path = command.output_dir / TIMELINE_NAME
    plot_timeline(sampler.timeline, path)
    logger.info("memory timeline: %s", path)
    return {
        "sampled_peak_rss_bytes": sampler.timeline.peak_bytes,
        "sampler_cpu_time_s": sampler.cpu_time_s,
        "sampler_wall_time_s": sampler.wall_time_s,
        "timeline": str(path),
        "samples": [asdict(sample) for sample in sampler.timeline.samples],
    }


def _quality(command: TrainCommand, corpus: Corpus, encoder: SpladeEncoder) -> dict[str, Any]:
    if corpus.test is None:
        logger.info("no --val-file: the model is not evaluated")
        return {}
    logger.info("evaluating on %d queries and %d documents", len(corpus.test.queries), len(corpus.test.corpus))
    return {
        "metrics": evaluate(encoder, corpus.test, max_length=command.config.max_length),
        "validation_loss": validation_loss(encoder, corpus.test_triples, command.config),
        "bm25": evaluate_bm25(corpus.test),
    }


def _save_model(command: TrainCommand, encoder: SpladeEncoder) -> None:
    """Put the new model in the place of an old one, whatever that is, only when it is whole."""
    folder = command.output_dir / MODEL_FOLDER
    unfinished = command.output_dir / f".{MODEL_FOLDER}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    encoder.save_pretrained(unfinished)
    old = command.output_dir / f".{MODEL_FOLDER}.old-{uuid4().hex}"
    if os.path.lexists(folder):
        folder.rename(old)  # not deleted first: what cannot be would stand in the way
    unfinished.rename(folder)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def _write_record(command: TrainCommand, record: Mapping[str, Any]) -> None:
    text = json.dumps(finite_or_none(dict(record)), indent=2, allow_nan=False, ensure_ascii=False)
    write_whole_file(command.output_dir / RECORD_NAME, text + "\n")


def _print_summary(command: TrainCommand, record: Mapping[str, Any]) -> None:
    loss = record["final_loss"]
    print(f"trained {record['optimizer_steps']} optimizer steps in {format_seconds(record['wall_time_s'])}", end="")
    print(f", final loss {loss:.3f}" if loss is not None else "")
    if "metrics" in record:
        print(f"MRR@10 {record['metrics']['mrr@10']:.3f} (BM25 {record['bm25']['mrr@10']:.3f})")
    print(f"model: {record['model_folder']}\nrecord: {command.output_dir / RECORD_NAME}")
