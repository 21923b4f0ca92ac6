"""One cell inside its own process: ``python -m splade_bench.bench.worker``.

Reads a request, says ``ready`` when the model stands, waits for ``go``, trains, says ``done``, evaluates, and ends with
a ``result``. Standard output belongs to these messages; whatever else prints goes to standard error.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers

from splade_bench.bench.build import CellBuilder, WidestBatch
from splade_bench.bench.flops import gemm_flops_per_s
from splade_bench.bench.gradient_check import gradient_error
from splade_bench.bench.protocol import Event, EventName, Request
from splade_bench.cell import OWN_TRAINER
from splade_bench.devices import is_out_of_memory, synchronize
from splade_bench.errors import TrainingError
from splade_bench.measure.heap import peak_heap_bytes
from splade_bench.measure.machine import machine_info
from splade_bench.measure.rss import PeakRss
from splade_bench.results import Status, finite_or_none
from splade_bench.training.step import Phase
from splade_bench.training.trainer import StepLoss, Trainer, TrainState

Send = Callable[[EventName, dict[str, Any]], None]


class StepClock:
    """Observes a run: the end of each optimizer step, and the phase that is under way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start_s = 0.0
        self._ends_s: list[float] = []
        self.phase = "setup"

    def start(self) -> None:
        synchronize(self._device)
        self._ends_s.clear()
        self._start_s = time.perf_counter()

    def on_phase(self, phase: Phase) -> None:
        self.phase = phase

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        synchronize(self._device)
        self._ends_s.append(time.perf_counter())

    def times(self) -> dict[str, float | None]:
        """Seconds from the start to now, and per optimizer step; the first step is left out when there are others."""
        synchronize(self._device)
        now_s = time.perf_counter()
        ends_s = [self._start_s, *self._ends_s]
        steps_s = [end - start for start, end in pairwise(ends_s)]
        counted = steps_s[1:] or steps_s
        return {
            "wall_time_s": now_s - self._start_s,
            "step_time_s": statistics.median(counted) if counted else None,
            "step_time_min_s": min(counted, default=None),
            "step_time_max_s": max(counted, default=None),
        }


class Worker:
    """A cell's life in order; ``measured`` holds what is known so far, also when it ends early."""

    def __init__(self, request: Request, send: Send, wait_for_go: Callable[[], None]) -> None:
        self.request = request
        self.measured: dict[str, Any] = {}
        self.phase = "setup"
        self._send = send
        self._wait_for_go = wait_for_go

    def run(self) -> None:
        """Do what the request asks for and send its result."""
        folder = self.request.corpus_folder
        model_folder = self.request.model_folder
        builder = CellBuilder(
            self.request.cell, Path(folder) if folder else None, Path(model_folder) if model_folder else None
        )
        self.measured["machine"] = machine_info() | {
            "threads": torch.get_num_threads(),
            "device": _device_name(builder.device),
        }
        if self.request.measure == "weights":
            builder.save_weights()
        elif self.request.measure == "gradient":
            self.measured["gradient_error"] = gradient_error(self.request.cell)
        else:
            self._warm_up(builder)
            measure = self._heap_pass if self.request.measure == "heap" else self._time_pass
            measure(builder)
        self._send("result", self.measured)

    def _warm_up(self, builder: CellBuilder) -> None:
        self.phase = "warm-up"
        encoder, source, config = builder.toy()
        Trainer(encoder, source, config).train()
        del encoder, source  # the toy must be gone before the baseline is taken
        gc.collect()

    def _time_pass(self, builder: CellBuilder) -> None:
        """Train under the clock and the kernel's high-water mark, then evaluate outside both."""
        peak_rss = PeakRss()
        if self.request.cell.trainer not in (OWN_TRAINER, "article"):
            import sentence_transformers  # noqa: F401 - part of that trainer's runtime, so of its baseline
        peak_rss.start()
        clock = StepClock(builder.device)
        trainer = builder.trainer([clock])
        self._send("ready", {})
        self._wait_for_go()
        clock.start()
        try:
            result = trainer.train()
        finally:
            self.phase = clock.phase
            self.measured |= clock.times() | _rss_fields(peak_rss)
        self.measured |= {
            "final_loss": result.final_loss,
            "losses": result.losses,
            "optimizer_steps": result.global_step,
            "queries_seen": result.queries_seen,
            "corpus_sha256": builder.corpus.sha256 if builder.corpus else None,
        }
        self._send("done", self.measured)
        self.phase = "evaluation"
        if isinstance(trainer, Trainer):
            if builder.workload.compares_trainers:
                self.measured |= {"step_flops": builder.step_flops(), "gemm_flops_per_s": gemm_flops_per_s()}
            self.measured["active_share"] = trainer.encoder.active_share
            self.measured["parameter_bytes"] = sum(part.nbytes for part in trainer.encoder.parameters())
            self.measured |= builder.quality(trainer.encoder)

    def _heap_pass(self, builder: CellBuilder) -> None:
        """Two optimizer steps of the widest batch: in the second, the optimizer's state is there from the start."""
        self.phase = "heap"
        encoder = builder.encoder()
        source = WidestBatch(builder.source(encoder))
        trainer = Trainer(encoder, source, replace(builder.config, max_steps=2))
        self.measured["memray_peak_bytes"] = peak_heap_bytes(trainer.train)


def main() -> int:
    """Serve one request; the exit code is 0 when a result was sent."""
    send = _claim_standard_output()
    transformers.logging.set_verbosity_error()
    worker = Worker(Request.from_line(sys.stdin.readline()), send, _wait_for_go)
    try:
        worker.run()
    except Exception as error:
        status, message = _diagnose(error)
        if status == "error":
            traceback.print_exc()
        send("failed", worker.measured | {"status": status, "error": message, "phase": worker.phase})
        return 1
    return 0


def _diagnose(error: Exception) -> tuple[Status, str]:
    message = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error):
        return "oom", message
    if isinstance(error, TrainingError) and error.status == "nan":
        return "nan", message
    return "error", f"{type(error).__name__}: {message}"


def _claim_standard_output() -> Send:
    """Keep the pipe to the parent for messages and point file descriptor 1 at standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(name: EventName, values: dict[str, Any]) -> None:
        channel.write(Event(name=name, values=finite_or_none(values)).to_line())
        channel.flush()

    return send


def _wait_for_go() -> None:
    if not sys.stdin.readline():
        raise SystemExit(1)  # the parent is gone


def _rss_fields(peak_rss: PeakRss) -> dict[str, Any]:
    peak = peak_rss.read()
    return {
        "baseline_rss_bytes": peak.baseline_bytes,
        "peak_rss_bytes": peak.peak_bytes,
        "peak_rss_source": peak.source,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    raise SystemExit(main())
