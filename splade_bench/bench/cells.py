"""One cell from start to recorded result, seen from the process that asked for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splade_bench.bench.isolate import CellError, WorkerProcess, figures_of_passes
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
    """Runs cells in fresh processes that share one prepared corpus.

    ``cache`` is the folder below which the corpus is prepared, once.
    """

    cache: Path
    timeout_s: float
    memory_passes: Sequence[MemoryPass] = DEFAULT_MEMORY_PASSES
    """Taken of cells that trained to their end, each in a process of its own."""
    memory_timeline: bool = False
    """Whether resident memory is sampled over the training."""

    @contextmanager
    def start(self, cell: Cell) -> Iterator[CellRun]:
        """A worker that is importing and building; it ends with the block."""
        run = CellRun(request=self._request(cell), memory_passes=self._passes_of(cell), timeout_s=self.timeout_s)
        with WorkerProcess(run.request, timeout_s=self.timeout_s) as process:
            run.process = process
            yield run

    def floor_bytes(self, cell: Cell) -> int:
        """Resident memory of a worker before it has a model: no memory limit can be below it.

        Raises:
            CellError: it could not be measured.
        """
        request = CellRequest(cell=replace(cell, memory_limit_bytes=None), measure="floor", corpus_folder=None)
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            return int(process.wait_for("result")["floor_bytes"])

    def corpus_sha256(self, workload_name: str) -> str | None:
        """Of the corpus that cells of this workload would train on here; None where they need none."""
        prepared = self._prepared(WORKLOADS[workload_name])
        return prepared.load().sha256 if prepared else None

    def _prepared(self, workload: Workload) -> PreparedCorpus | None:
        if workload.corpus != "docstrings":
            return None
        return PreparedCorpus.prepare(self.cache, [MODEL_PRESETS[workload.model_name].vocab_size])

    def _passes_of(self, cell: Cell) -> Sequence[MemoryPass]:
        chosen = WORKLOADS[cell.workload].memory_passes
        return self.memory_passes if chosen is None else [name for name in MEMORY_PASSES if name in chosen]

    def _request(self, cell: Cell) -> CellRequest:
        workload = WORKLOADS[cell.workload]
        prepared = self._prepared(workload)
        return CellRequest(
            cell=cell,
            measure="time",
            corpus_folder=str(prepared.folder) if prepared else None,
            model_folder=self._weights(cell) if workload.shared_weights else None,
            memory_timeline=self.memory_timeline,
        )

    def _weights(self, cell: Cell) -> str:
        """Folder of the weights with which every trainer of this workload starts; made by a worker where missing."""
        key = sha256_of_texts(cell.workload, cell.attention_dropout, cell.seed, source_tree(), versions())[:16]
        folder = self.cache / f"weights-{key}"
        if not folder.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            request = CellRequest(cell=cell, measure="weights", corpus_folder=None, model_folder=str(folder))
            with WorkerProcess(request, timeout_s=self.timeout_s) as process:
                process.wait_for("result")
        return str(folder)

    def gradient_error(self, cell: Cell) -> float:
        """How far the gradient of the cell's trainer is from the plain definition's.

        Raises:
            CellError: it could not be computed.
        """
        request = CellRequest(cell=cell, measure="gradient", corpus_folder=None)
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            return float(process.wait_for("result")["gradient_error"])


class CellRun:
    """A cell under way. Call :meth:`wait_until_ready`, :meth:`train`, :meth:`finish`, in this order.

    Each of the first two may raise :class:`CellError`; :meth:`finish` turns whatever happened into a result.
    """

    def __init__(self, *, request: CellRequest, memory_passes: Sequence[MemoryPass], timeout_s: float) -> None:
        self.request = request
        self.process: WorkerProcess
        self._memory_passes = memory_passes
        self._timeout_s = timeout_s
        self._trained: dict[str, Any] = {}
        self._failure: dict[str, Any] | None = None
        self._started_at = utc_now()

    def wait_until_ready(self) -> None:
        """Block until the model stands: nothing of this belongs to the cell's time."""
        with self._remembering_failure():
            self.process.wait_for("ready")

    def train(self) -> None:
        """Say go and block until done: exactly the training loop."""
        with self._remembering_failure():
            self._trained = self.process.go()

    def finish(self) -> CellResult:
        """Evaluate, take the memory passes in processes of their own, and put everything into one record."""
        measured = self._failure
        if measured is None:
            try:
                measured = self.process.wait_for("result") | {"status": "ok"}
                measured |= figures_of_passes(self.request, self._memory_passes, timeout_s=self._timeout_s)
            except CellError as failure:
                measured = failure.values | self._trained  # what the training left stands
        return CellResult.of_cell(self.request.cell, **(taken_on() | measured), started_at=self._started_at)

    @contextmanager
    def _remembering_failure(self) -> Iterator[None]:
        try:
            yield
        except CellError as failure:
            self._failure = failure.values
            raise
