"""One training that a person watches: progress, memory and signals; and its record."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from splade_bench.cli.flags import TrainFlags
from splade_bench.cli.output import OutputFolder
from splade_bench.cli.progress import Progress, memory_line
from splade_bench.cli.signals import StopSignals
from splade_bench.data.records import Corpus
from splade_bench.device.devices import synchronize
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import TrainingError, error_line
from splade_bench.evaluation.evaluator import evaluate, evaluate_bm25
from splade_bench.measure.machine import taken_on
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.report.plots import plot_timeline
from splade_bench.training.trainer import Trainer, TrainResult
from splade_bench.training.validation import validation_loss

logger = logging.getLogger(__name__)

_LONGEST_REASON = 200


def train(
    command: TrainFlags, corpus: Corpus, encoder: SpladeEncoder, signals: StopSignals
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
    signals.on_first(trainer.request_stop)
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


def memory_record(sampler: MemorySampler, output: OutputFolder) -> dict[str, Any]:
    """Memory over time, which is drawn too."""
    plot_timeline(sampler.timeline, output.timeline)
    logger.info("memory timeline: %s", output.timeline)
    return {
        "sampled_peak_rss_bytes": sampler.timeline.peak_bytes,
        "sampler_cpu_time_s": sampler.cpu_time_s,
        "sampler_wall_time_s": sampler.wall_time_s,
        "timeline": str(output.timeline),
        "samples": [asdict(sample) for sample in sampler.timeline.samples],
    }


def quality_record(command: TrainFlags, corpus: Corpus, encoder: SpladeEncoder) -> dict[str, Any]:
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


def _record(command: TrainFlags, corpus: Corpus, encoder: SpladeEncoder, result: TrainResult) -> dict[str, Any]:
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


def _out_of_memory(command: TrainFlags, error: BaseException, phase: str) -> str:
    advice = (
        "remove --memory-mode and --head: the default computes no logits"
        if command.config.memory.head == "eager"
        else "run splade-bench fit with these flags and a --budget to find settings that fit, or try "
        "--optimizer-states disk, --activation-checkpointing, a smaller --max-length or a smaller --batch-size"
    )
    return f"out of memory during {phase}: {error_line(error)[:_LONGEST_REASON]}; {advice}"
