"""One cell inside its own process: ``python -m splade_bench.worker.cell_worker``.

Reads a request, says ``ready`` when the model stands, waits for ``go``, trains, says ``done``, evaluates, and ends with
a ``result``. Standard output belongs to these messages; whatever else prints goes to standard error.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers

from splade_bench.bench.protocol import PINNED_MMAP_THRESHOLD_BYTES, CellRequest
from splade_bench.device.devices import synchronize
from splade_bench.device.heap import call_after_trim, trim_heap
from splade_bench.device.storages import LiveStorages
from splade_bench.grid.cell import OWN_TRAINER
from splade_bench.measure.device import device_memory
from splade_bench.measure.limits import limit_rss, renew_limit
from splade_bench.measure.machine import machine_info
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training.step import Phase
from splade_bench.training.trainer import StepLoss, Trainer, TrainObserver, TrainState
from splade_bench.worker.cell_builder import CellBuilder, WidestBatch
from splade_bench.worker.flops import gemm_flops_per_s
from splade_bench.worker.gradient_check import gradient_error
from splade_bench.worker.probes import Probes, heap_fields, live_fields, pinned_fields
from splade_bench.worker.serving import Send, claim_standard_output, serve, wait_for_go


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

    def __init__(self, request: CellRequest, send: Send, wait_for_go: Callable[[], None]) -> None:
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
            self._passes[self.request.measure](builder)
        self._send("result", self.measured)

    @property
    def _passes(self) -> Mapping[str, Callable[[CellBuilder], None]]:
        return {
            "time": self._time_pass,
            "heap": self._heap_pass,
            "live": self._live_pass,
            "pinned": self._pinned_pass,
            "plan": self._plan_pass,
            "floor": self._floor,
        }

    def _warm_up(self, builder: CellBuilder) -> None:
        self.phase = "warm-up"
        encoder, source, config = builder.toy()
        Trainer(encoder, source, config).train()
        del encoder, source  # the toy must be gone before the baseline is taken
        gc.collect()
        trim_heap()  # and no holes be left that what is measured would fill first

    def _time_pass(self, builder: CellBuilder) -> None:
        """Train under the clock and the kernel's high-water mark, then evaluate outside both."""
        if self.request.cell.trainer not in (OWN_TRAINER, "article"):
            import sentence_transformers  # noqa: F401 - part of that trainer's runtime, so of its baseline
        device = device_memory(builder.device.type)
        if self.request.memory_limit_bytes:
            # A processor's tensors are in the process's memory, an accelerator's in its own.
            if builder.device.type == "cpu":
                limit_rss(self.request.memory_limit_bytes)
                call_after_trim(partial(renew_limit, self.request.memory_limit_bytes))
            else:
                device.limit(self.request.memory_limit_bytes)
        clock = StepClock(builder.device)
        probes = Probes(device, phase=(lambda: clock.phase) if self.request.memory_timeline else None)
        probes.start()
        self.phase = "setup"
        trainer = builder.trainer([clock])
        self._send("ready", {})
        self._wait_for_go()
        try:
            clock.start()
            with probes:
                result = trainer.train()
        finally:
            self.phase = clock.phase
            self.measured |= clock.times() | probes.fields()
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
            if builder.workload.gemm_rate:
                self.measured |= {"step_flops": builder.step_flops(), "gemm_flops_per_s": gemm_flops_per_s()}
            self.measured["active_share"] = trainer.encoder.active_share
            self.measured["parameter_bytes"] = sum(part.nbytes for part in trainer.encoder.parameters())
            self.measured |= builder.quality(trainer.encoder)

    def _heap_pass(self, builder: CellBuilder) -> None:
        trainer = self._widest_steps(builder, builder.encoder())
        self.measured |= heap_fields(trainer.train)

    def _live_pass(self, builder: CellBuilder) -> None:
        encoder = builder.encoder()
        live = LiveStorages(vocab_size=encoder.vocab_size)
        trainer = self._widest_steps(builder, encoder, observers=[live])
        live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
        self.measured |= live_fields(trainer.train, live)

    def _pinned_pass(self, builder: CellBuilder) -> None:
        # A mode's own threshold would undo what the environment fixes.
        memory = replace(builder.config.memory, mmap_threshold_bytes=PINNED_MMAP_THRESHOLD_BYTES)
        builder.config = replace(builder.config, memory=memory)
        self.measured |= pinned_fields(lambda: self._widest_steps(builder, builder.encoder()).train())

    def _plan_pass(self, builder: CellBuilder) -> None:
        if self.request.cell.trainer != OWN_TRAINER:
            return
        baseline_bytes = current_rss_bytes()
        lengths = Lengths.widest(builder.source(builder.encoder()))
        model = device_model(builder.device.type, threads=torch.get_num_threads())
        made = plan(builder.planned_encoder, builder.config, lengths, model, baseline_bytes=baseline_bytes)
        self.measured |= {
            "planned_peak_rss_bytes": made.peak_bytes,
            "planned_baseline_rss_bytes": made.baseline_bytes,
            "planned_live_peak_bytes": made.live_peak_bytes,
        }

    def _floor(self, builder: CellBuilder) -> None:
        self.measured["floor_bytes"] = current_rss_bytes()

    def _widest_steps(
        self, builder: CellBuilder, encoder: SpladeEncoder, observers: Sequence[TrainObserver] = ()
    ) -> Trainer:
        """Two optimizer steps of the widest batch: in the second, the optimizer's state is there from the start."""
        self.phase = self.request.measure
        source = WidestBatch(builder.source(encoder))
        return Trainer(encoder, source, replace(builder.config, max_steps=2), observers=observers)


def main() -> int:
    """Serve one request; the exit code is 0 when a result was sent."""
    send = claim_standard_output()
    transformers.logging.set_verbosity_error()
    return serve(Worker(CellRequest.from_line(sys.stdin.readline()), send, wait_for_go), send)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    raise SystemExit(main())
