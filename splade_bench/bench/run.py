"""One cell from start to recorded result, seen from the process that asked for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from splade_bench.bench.isolate import CellError, WorkerProcess
from splade_bench.bench.protocol import Request
from splade_bench.cell import WORKLOADS, Cell
from splade_bench.config import MODEL_PRESETS
from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.records import sha256_of_texts
from splade_bench.measure.machine import source_tree, taken_on, versions
from splade_bench.results import CellResult


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRunner:
    """Runs cells in fresh processes that share one prepared corpus.

    ``cache`` is the folder below which the corpus is prepared, once.
    """

    cache: Path
    timeout_s: float

    @contextmanager
    def start(self, cell: Cell) -> Iterator[CellRun]:
        """A worker that is importing and building; it ends with the block."""
        run = CellRun(cell=cell, requests=self._requests(cell), timeout_s=self.timeout_s)
        with WorkerProcess(run.requests["time"], timeout_s=self.timeout_s) as process:
            run.process = process
            yield run

    def _requests(self, cell: Cell) -> dict[str, Request]:
        folder = None
        workload = WORKLOADS[cell.workload]
        if workload.corpus == "docstrings":
            vocab_size = MODEL_PRESETS[workload.model_name].vocab_size
            folder = str(PreparedCorpus.prepare(self.cache, [vocab_size]).folder)
        model_folder = self._weights(cell) if workload.compares_trainers else None
        return {
            "time": Request(cell=cell, measure="time", corpus_folder=folder, model_folder=model_folder),
            "heap": Request(cell=cell, measure="heap", corpus_folder=folder, model_folder=model_folder),
        }

    def _weights(self, cell: Cell) -> str:
        """Folder of the weights with which every trainer of this workload starts; made by a worker where missing."""
        key = sha256_of_texts(cell.workload, cell.attention_dropout, cell.seed, source_tree(), versions())[:16]
        folder = self.cache / f"weights-{key}"
        if not folder.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            request = Request(cell=cell, measure="weights", corpus_folder=None, model_folder=str(folder))
            with WorkerProcess(request, timeout_s=self.timeout_s) as process:
                process.wait_for("result")
        return str(folder)

    def gradient_error(self, cell: Cell) -> float:
        """How far the gradient of the cell's trainer is from the plain definition's.

        Raises:
            CellError: it could not be computed.
        """
        request = Request(cell=cell, measure="gradient", corpus_folder=None)
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            return float(process.wait_for("result")["gradient_error"])


class CellRun:
    """A cell under way. Call :meth:`wait_until_ready`, :meth:`train`, :meth:`finish`, in this order.

    Each of the first two may raise :class:`CellError`; :meth:`finish` turns whatever happened into a result.
    """

    def __init__(self, *, cell: Cell, requests: dict[str, Request], timeout_s: float) -> None:
        self.cell = cell
        self.requests = requests
        self.process: WorkerProcess
        self._timeout_s = timeout_s
        self._trained: dict[str, Any] = {}
        self._failure: dict[str, Any] | None = None
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def wait_until_ready(self) -> None:
        """Block until the model stands: nothing of this belongs to the cell's time."""
        with self._remembering_failure():
            self.process.wait_for("ready")

    def train(self) -> None:
        """Say go and block until done: exactly the training loop."""
        with self._remembering_failure():
            self._trained = self.process.go()

    def finish(self) -> CellResult:
        """Evaluate, take the heap's peak in a second process, and put everything into one record."""
        measured = self._failure
        if measured is None:
            try:
                measured = self.process.wait_for("result") | {"status": "ok"} | self._heap_peak()
            except CellError as failure:
                measured = self._trained | failure.values
        return CellResult.of_cell(self.cell, **(taken_on() | measured), started_at=self._started_at)

    def _heap_peak(self) -> dict[str, Any]:
        """The heap's peak; a heap pass that fails leaves it unmeasured, the timed figures stand."""
        if not WORKLOADS[self.cell.workload].heap_pass:
            return {}
        try:
            with WorkerProcess(self.requests["heap"], timeout_s=self._timeout_s) as process:
                return process.wait_for("result")
        except CellError:
            return {}

    @contextmanager
    def _remembering_failure(self) -> Iterator[None]:
        try:
            yield
        except CellError as failure:
            self._failure = failure.values
            raise
