"""Measures a cell inside its own process: ``python -m splade_bench.worker.cell_worker``.

Reads a request, builds the model, sends ``ready``, waits for ``go``, trains (with ``progress`` now and then), sends
``done``, evaluates, and ends with a ``result``. If several processes train the cell, this is the module of all of them
(:mod:`splade_bench.worker.ranks`). Only these messages go to standard output; all other prints go to standard error.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import torch
import transformers

from splade_bench.bench.protocol import PINNED_MMAP_THRESHOLD_BYTES, CellRequest
from splade_bench.device.heap import trim_heap
from splade_bench.device.storages import LiveStorages
from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER
from splade_bench.measure.device import device_memory
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.candidates import Candidates
from splade_bench.planner.fitting import PlannedTraining, why_nothing_fits
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.rates import gemm_flops_per_s
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training.state import TrainObserver
from splade_bench.training.step_clock import StepClock
from splade_bench.training.trainer import Trainer
from splade_bench.worker.cell_builder import CellBuilder, WidestBatch
from splade_bench.worker.peers import PeerTrainer
from splade_bench.worker.probes import Fields, TimePassProbes, heap_fields, live_fields, pinned_fields
from splade_bench.worker.ranks import ranks_of
from splade_bench.worker.serving import Worker, claim_standard_output, limit_process, serve, wait_for_go
from splade_bench.worker.step_events import StepEvents

_QUICK_GEMM_SIZE = 1024  # some hundredths of a second, where the rate only says whether times can be trusted


class CellWorker(Worker[CellRequest]):
    """Measures one cell, in the way that the request names."""

    def run(self) -> None:
        """Build, measure, and send the result."""
        with ranks_of(self.request, self.send) as self._ranks:
            self._build_and_measure()

    def _build_and_measure(self) -> None:
        memory = MemoryConfig(**self.request.memory) if self.request.memory else None
        request, processes = self.request, self._ranks.processes
        builder = CellBuilder(request.cell, request.corpus_folder, request.model_folder, memory, processes)
        device = builder.device
        self.measured["machine"] |= {
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
        passes: Mapping[str, Callable[[CellBuilder], Fields]] = {
            "time": self._time_pass,
            "heap": lambda builder: heap_fields(self._widest_steps(builder, builder.encoder()).train),
            "live": self._live_pass,
            "pinned": self._pinned_pass,
            "plan": self._plan_pass,
            "fit": self._fit_pass,
            "floor": lambda _: {"floor_bytes": current_rss_bytes()},
            "weights": lambda builder: {"model_folder": str(builder.save_weights())},
        }
        if self.request.measure != "weights":
            self._warm_up(builder)
        self.measured |= passes[self.request.measure](builder)
        self.send("result", self.measured)

    def _warm_up(self, builder: CellBuilder) -> None:
        self.phase = "warm-up"
        encoder, source, config = builder.toy()
        Trainer(encoder, source, config, processes=builder.processes).train()
        del encoder, source  # the toy must be gone before the runtime memory is read
        gc.collect()
        trim_heap()  # holes in the heap would hide part of what is measured

    def _time_pass(self, builder: CellBuilder) -> Fields:
        """Train under the clock and the kernel's high-water mark; then rank 0 evaluates outside both."""
        trainer = self._train(builder)
        if self.request.rank:
            return {}
        self.measured |= self._ranks.fields_of_all(self.measured)
        self.send("done", self.measured)
        return self._evaluate(builder, trainer)

    def _train(self, builder: CellBuilder) -> Trainer | PeerTrainer:
        if self.request.cell.trainer not in (OWN_TRAINER, ARTICLE_TRAINER):
            import sentence_transformers  # noqa: F401 - part of that trainer's runtime memory
        device = device_memory(builder.device.type)
        if self.request.memory_limit_bytes:
            # The CPU's tensors are in the process's memory, an accelerator's in its own.
            limit = limit_process if builder.device.type == "cpu" else device.limit
            limit(self.request.memory_limit_bytes)
        clock = StepClock(builder.device, untimed_steps=builder.workload.untimed_steps)
        probes = TimePassProbes(device, phase=(lambda: clock.phase) if self.request.memory_timeline else None)
        probes.start()
        self.phase = "setup"
        trainer = builder.trainer([clock] if self.request.rank else [clock, StepEvents(self.send)])
        self._ranks.processes.meet()
        if not self.request.rank:  # the others wait for it where the training begins
            self.send("ready", {})
            wait_for_go()
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
        return trainer

    def _evaluate(self, builder: CellBuilder, trainer: Trainer | PeerTrainer) -> Fields:
        self.phase = "evaluation"
        if not self.request.memory_limit_bytes:  # which may leave no room for it
            self.measured["gemm_flops_per_s"] = gemm_flops_per_s(
                *(() if builder.workload.gemm_rate else (_QUICK_GEMM_SIZE,))
            )
        if not isinstance(trainer, Trainer):
            return {}  # a peer is compared by memory and time only
        if builder.workload.gemm_rate:
            self.measured |= builder.step_flops()
        self.measured["active_share"] = trainer.state.active_share
        self.measured["parameter_bytes"] = sum(part.nbytes for part in trainer.encoder.parameters())
        return builder.quality(trainer.encoder)

    def _live_pass(self, builder: CellBuilder) -> Fields:
        encoder = builder.encoder()
        live = LiveStorages(vocab_size=encoder.vocab_size)
        trainer = self._widest_steps(builder, encoder, observers=[live])
        live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
        return live_fields(trainer.train, live)

    def _pinned_pass(self, builder: CellBuilder) -> Fields:
        # A mode's own threshold would replace that of the environment.
        memory = replace(builder.config.memory, mmap_threshold_bytes=PINNED_MMAP_THRESHOLD_BYTES)
        builder.config = replace(builder.config, memory=memory)
        return pinned_fields(lambda: self._widest_steps(builder, builder.encoder()).train())

    def _plan_pass(self, builder: CellBuilder) -> Fields:
        if self.request.cell.trainer != OWN_TRAINER:
            return {}
        training = _planned_training(builder)
        return _planned_fields(training.plan(builder.config, _widest_lengths(builder), within_bytes=None))

    def _fit_pass(self, builder: CellBuilder) -> Fields:
        """Choose the memory settings for the cell's budget, as ``splade-bench fit`` does."""
        self.phase = "fit"
        budget_bytes = builder.cell.memory_budget_bytes
        assert budget_bytes is not None and builder.cell.trainer == OWN_TRAINER
        training = _planned_training(builder)
        candidates = Candidates(builder.config, given=(), device=builder.device.type, allow_inexact=False)
        found = training.fit(candidates, builder.config, _widest_lengths(builder), whole_frontier=False)
        if found.chosen is None:
            raise MemoryError(why_nothing_fits(found, budget_bytes))
        return {"memory_settings": asdict(found.chosen.config.memory)} | _planned_fields(found.chosen.plan)

    def _widest_steps(
        self, builder: CellBuilder, encoder: SpladeEncoder, observers: Sequence[TrainObserver] = ()
    ) -> Trainer:
        """Two optimizer steps of the widest batch: in the second, the optimizer's state is there from the start."""
        self.phase = self.request.measure
        source = WidestBatch(builder.source(encoder))
        return Trainer(encoder, source, replace(builder.config, max_steps=2), observers=observers)


def _planned_training(builder: CellBuilder) -> PlannedTraining:
    """The cell's training for plans. Runtime memory is read here, before there is a model."""
    return PlannedTraining(
        make_encoder=builder.new_encoder,
        device_type=builder.device.type,
        baseline_bytes=current_rss_bytes(),
        budget_bytes=builder.cell.memory_budget_bytes,
    )


def _widest_lengths(builder: CellBuilder) -> Lengths:
    """Of the cell's widest batch, or of a rank's share of it; its encoder is needed for the tokenizer alone."""
    widest = Lengths.widest(builder.source(builder.new_encoder()))
    return widest.share_of(builder.cell.processes) if builder.cell.processes > 1 else widest


def _planned_fields(planned: MemoryPlan) -> Fields:
    return {
        "planned_peak_rss_bytes": planned.peak_bytes,
        "planned_baseline_rss_bytes": planned.baseline_bytes,
        "planned_live_peak_bytes": planned.live_peak_bytes,
    }


def main() -> int:
    """Serve one request; the exit code is 0 if it sent a result."""
    send = claim_standard_output()
    transformers.logging.set_verbosity_error()
    return serve(CellWorker(CellRequest.from_line(sys.stdin.readline()), send))


if __name__ == "__main__":
    raise SystemExit(main())
