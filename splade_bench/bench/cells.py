"""Measures one cell in fresh processes. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splade_bench.bench.busy import busy_processes
from splade_bench.bench.isolate import WorkerError, WorkerProcess, figures_of_passes, result_of
from splade_bench.bench.progress import CellProgress, OnProgress, show_nothing
from splade_bench.bench.protocol import DEFAULT_MEMORY_PASSES, MEMORY_PASSES, CellRequest, MemoryPass
from splade_bench.config import MODEL_PRESETS
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.records import sha256_of_texts
from splade_bench.grid.cell import Cell
from splade_bench.grid.workloads import WORKLOADS, Workload
from splade_bench.measure.machine import source_tree, taken_on, utc_now, versions
from splade_bench.results.records import CellResult


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRunner:
    """Runs cells in fresh processes that share one prepared corpus."""

    cache: Path
    """Folder below which the corpus is prepared, once."""
    timeout_s: float
    memory_passes: Sequence[MemoryPass] = DEFAULT_MEMORY_PASSES
    """Each runs in a process of its own, if the cell's training ended well."""
    memory_timeline: bool = False
    """Whether to sample resident memory during the training."""
    on_progress: OnProgress = show_nothing
    _chosen: dict[Cell, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    """What fit chose for a cell, so that all rounds of the cell train with the same settings."""

    @contextmanager
    def start(self, cell: Cell) -> Iterator[CellRun]:
        """Start a worker, which imports and builds the cell; it ends with the block.

        Raises:
            ConfigError: several processes cannot train the cell.
            WorkerError: the weights that the cell needs could not be made, or nothing fits its memory budget.
        """
        try:
            with self._started(cell, CellProgress(cell.cell_id, self.on_progress)) as run:
                yield run
        finally:
            self.on_progress(None)

    @contextmanager
    def _started(self, cell: Cell, progress: CellProgress) -> Iterator[CellRun]:
        cell.require_trainable()
        workload = WORKLOADS[cell.workload]
        progress.show("prepares its texts")
        prepared = self._prepared(workload)
        corpus_folder = str(prepared.folder) if prepared else None
        chosen = {}
        if cell.memory_budget_bytes is not None:
            progress.show("fits its settings")
            chosen = self._fit(cell, corpus_folder)
        progress.show("starts")
        request = CellRequest(
            cell=cell,
            measure="time",
            corpus_folder=corpus_folder,
            model_folder=self._weights(cell) if workload.shared_weights else None,
            memory=chosen.get("memory_settings"),
            memory_timeline=self.memory_timeline,
        )
        wanted = workload.memory_passes
        passes = self.memory_passes if wanted is None else [name for name in MEMORY_PASSES if name in wanted]
        if cell.processes > 1:  # a plan can be that of one rank; the other passes would measure one process alone
            passes = [name for name in passes if name == "plan"]
        worker = WorkerProcess(request, timeout_s=self.timeout_s, on_progress=progress.on_step)
        with busy_processes(cell.busy_processes), worker as process:
            yield CellRun(
                request=request,
                process=process,
                memory_passes=passes,
                timeout_s=self.timeout_s,
                chosen=chosen,
                progress=progress,
            )

    def floor_bytes(self, cell: Cell) -> int:
        """Resident memory of a worker before it has a model: a memory limit must be above it.

        Raises:
            WorkerError: it could not be measured.
        """
        request = CellRequest(cell=replace(cell, memory_limit_bytes=None), measure="floor")
        return int(result_of(request, timeout_s=self.timeout_s)["floor_bytes"])

    def corpus_sha256(self, workload_name: str) -> str | None:
        """Hash of the corpus that cells of this workload train on here; None for synthetic texts."""
        prepared = self._prepared(WORKLOADS[workload_name])
        return prepared.load().sha256 if prepared else None

    def _fit(self, cell: Cell, corpus_folder: str | None) -> dict[str, Any]:
        """The settings for the cell's memory budget and their plan, from a process of its own."""
        key = replace(cell, round=0)
        if key not in self._chosen:
            request = CellRequest(cell=cell, measure="fit", corpus_folder=corpus_folder)
            fitted = result_of(request, timeout_s=self.timeout_s)
            # The machine is that of the timed process.
            self._chosen[key] = {name: value for name, value in fitted.items() if name != "machine"}
        return self._chosen[key]

    def _prepared(self, workload: Workload) -> PreparedCorpus | None:
        if workload.corpus != "docstrings":
            return None
        preset = MODEL_PRESETS.get(workload.model_name)  # a pretrained model has a tokenizer
        return PreparedCorpus.prepare(self.cache, [preset.vocab_size] if preset else [])

    def _weights(self, cell: Cell) -> str:
        """Folder of the weights with which every trainer of this workload starts; a worker makes a missing one."""
        key = sha256_of_texts(cell.workload, cell.attention_dropout, cell.seed, source_tree(), versions())[:16]
        folder = self.cache / f"weights-{key}"
        if not folder.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            request = CellRequest(cell=cell, measure="weights", model_folder=str(folder))
            result_of(request, timeout_s=self.timeout_s)
        return str(folder)


@dataclass(kw_only=True, slots=True)
class CellRun:
    """A cell that is running. Call :meth:`wait_until_ready`, :meth:`train`, :meth:`finish`, in this order.

    The first two may raise :class:`WorkerError`; :meth:`finish` makes a result of every end.
    """

    request: CellRequest
    process: WorkerProcess
    memory_passes: Sequence[MemoryPass]
    timeout_s: float
    chosen: dict[str, Any] = field(default_factory=dict)
    """The settings that fit chose, with their plan: figures of a cell with a memory budget."""
    progress: CellProgress = field(default_factory=lambda: CellProgress("", show_nothing))
    _started_at: str = field(default_factory=utc_now, init=False)
    _trained: dict[str, Any] = field(default_factory=dict, init=False)
    """Figures of the training, which a failure after it does not lose."""

    def wait_until_ready(self) -> None:
        """Block until the model is built, which is not part of the cell's time."""
        self.process.wait_for("ready")
        self.progress.start_training()

    def train(self) -> None:
        """Let the worker train and block until it has: exactly the training loop."""
        start_s = time.perf_counter()
        try:
            self._trained = self.process.go()
        except WorkerError as failure:
            if failure.values["status"] == "timeout":  # a worker that was killed says nothing
                self._trained = {"wall_time_s": time.perf_counter() - start_s}
            raise

    def finish(self) -> CellResult:
        """Wait for the evaluation, run the memory passes, and make one record of everything."""
        self.progress.show("evaluates")
        try:
            measured = self.process.wait_for("result") | {"status": "ok"}
        except WorkerError as failure:
            measured = failure.values | self._trained
        else:
            passes = [replace(self.request, measure=name) for name in self.memory_passes]
            measured |= figures_of_passes(
                passes, timeout_s=self.timeout_s, on_pass=lambda name: self.progress.show(f"{name} pass")
            )
        fields = taken_on() | self.chosen | measured
        return CellResult.of_cell(self.request.cell, **fields, started_at=self._started_at)
