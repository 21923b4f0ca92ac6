"""A session: measures cells and calls one after another, records each at once, and estimates the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from splade_bench.bench.calls import CallRunner, call_request
from splade_bench.bench.cells import CellRun, CellRunner
from splade_bench.bench.isolate import WorkerError
from splade_bench.bench.protocol import MEMORY_PASSES, CallRequest
from splade_bench.errors import ConfigError, one_line
from splade_bench.grid.cell import Cell
from splade_bench.grid.shards import shard_count
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.limits import require_above_floor
from splade_bench.measure.machine import taken_on, utc_now
from splade_bench.results.conditions import conditions_of, differences
from splade_bench.results.records import (
    CALIBRATION,
    SETTLED,
    CallResult,
    CellResult,
    Measurement,
    Result,
    append_result,
    read_results,
)
from splade_bench.results.sessions import newest_session, started_at
from splade_bench.units import format_bytes, format_seconds

Recorded = TypeVar("Recorded", bound=Result)


class MeasuringSession:
    """Measures, records and counts.

    Args:
        results_path: file to append results to; None: they are only shown.
        memory_limit_bytes: limit of each call, and of each cell without a limit of its own.
        resume: whether to use results that the file already has, instead of measuring the same cell again on the same
            source tree, machine, versions and corpus.
        shard: the part of a sweep that this session measures, such as 2/8; None: all of it.
    """

    def __init__(
        self,
        *,
        results_path: Path | None,
        cells: CellRunner,
        calls: CallRunner,
        memory_limit_bytes: int | None = None,
        resume: bool = False,
        shard: str | None = None,
    ) -> None:
        self.results_path = results_path
        self.memory_limit_bytes = memory_limit_bytes
        self.expected_cells = 0
        self.finished: list[Result] = []
        self.reused: list[Result] = []
        """Results of the file that were used instead of a measurement."""
        self._cells = cells
        self._calls = calls
        self._resume = resume
        self._shard = shard
        self._name = uuid4().hex
        self._elapsed_s = 0.0
        self._call_floors_bytes: dict[str, int] = {}

    def measure(self, cell: Cell, timed: Callable[[CellRun], object], *, test_id: str | None = None) -> CellResult:
        """Run ``cell`` under the session's memory limit; ``timed`` waits until the run is ready and trains it.

        Raises:
            DataError: the result cannot be written; it is still one of the finished results.
        """
        cell = self.limited(cell)
        start_s = time.perf_counter()
        try:
            with self._cells.start(cell) as run:
                try:
                    timed(run)
                except WorkerError:
                    pass  # the run's result says so
                result = run.finish()
        except WorkerError as failure:  # the weights that the cell needs could not be made
            result = CellResult.of_cell(cell, **(taken_on() | failure.values), started_at=utc_now())
        self._elapsed_s += time.perf_counter() - start_s
        return self._record(replace(result, test_id=test_id))

    def measure_call(
        self, name: str, request: CallRequest, *, test_id: str | None = None, folder: Path | None = None
    ) -> CallResult:
        """Make a call in a fresh process and record the measurement.

        Each memory pass finds ``folder`` as it was before the call.

        Raises:
            ConfigError: the session's memory limit leaves no room for the call.
            DataError: the result cannot be written; it is still one of the finished results.
        """
        self.require_room_for_call(request)
        result = self._calls.measure(name, request, memory_limit_bytes=self.memory_limit_bytes, folder=folder)
        return self._record(replace(result, test_id=test_id))

    def measure_as(self, record_type: type[Recorded], request: CallRequest) -> Recorded:
        """Make a call in a fresh process, and record what it returns: a dictionary of the measured fields.

        Raises:
            DataError: the result cannot be written; it is still one of the finished results.
            WorkerError: the call failed.
        """
        started_at = utc_now()
        fields = self._calls.value_of(request)
        return self._record(record_type(**(taken_on() | fields), started_at=started_at))

    def calibrate(self, function: Callable[..., object], *arguments: Any) -> CallResult:
        """Let every probe read the memory of ``function``, a known amount, and record the readings."""
        runner = replace(self._calls, memory_passes=MEMORY_PASSES, memory_timeline=True)
        name = " ".join([CALIBRATION, getattr(function, "__name__", ""), *map(str, arguments)])
        return self._record(runner.measure(name, call_request(function, *arguments)))

    def limited(self, cell: Cell) -> Cell:
        """The cell with the session's memory limit, unless it has one of its own."""
        if cell.memory_limit_bytes is not None:
            return cell
        return replace(cell, memory_limit_bytes=self.memory_limit_bytes)

    def recorded(self, cell: Cell) -> CellResult | None:
        """The result of ``cell`` from this session or, in a resumed one, from the results file, if there is one."""
        return _settled(self.limited(cell), self.finished) or self.resumed(cell)

    def resumed(self, cell: Cell) -> CellResult | None:
        """The result of ``cell`` that a resumed session found in the results file, if there is one."""
        result = _settled(self.limited(cell), self._earlier)
        if result is not None and result not in self.reused:
            self.reused.append(result)
        return result

    def require_room(self, cell: Cell) -> None:
        """Refuse a memory limit under which no cell could start.

        Raises:
            ConfigError: the cell's limit is not above the memory of a worker without a model.
        """
        limit_bytes = self.limited(cell).memory_limit_bytes
        if limit_bytes is None or cell.device != "cpu":  # an accelerator has nothing allocated before the model
            return
        try:
            floor_bytes = self._cells.floor_bytes(cell)
        except WorkerError as failure:
            raise ConfigError(f"--memory-limit: cannot measure the memory of a worker: {failure}") from failure
        require_above_floor(limit_bytes, floor_bytes)

    def require_room_for_call(self, request: CallRequest) -> None:
        """Refuse a memory limit under which the function's module could not even be imported.

        Raises:
            ConfigError: the session's limit is not above the memory of a worker before the call.
        """
        if self.memory_limit_bytes is None:
            return
        if request.module not in self._call_floors_bytes:
            try:
                self._call_floors_bytes[request.module] = self._calls.floor_bytes(request)
            except WorkerError:
                return  # the call will fail in the same way, and its record will say how
        require_above_floor(self.memory_limit_bytes, self._call_floors_bytes[request.module])

    def line(self, result: Measurement) -> str:
        """One line for the terminal: the result, and the time left."""
        parts = [result.cell_id if isinstance(result, CellResult) else getattr(result, "name", ""), result.status]
        if result.wall_time_s is not None:
            parts.append(format_seconds(result.wall_time_s))
        if result.peak_rss_bytes is not None:
            parts.append(f"peak {format_bytes(result.peak_rss_bytes)}")
        if isinstance(result, CellResult) and result.all_ranks_peak_bytes is not None:
            parts.append(f"(all ranks {format_bytes(result.all_ranks_peak_bytes)})")
        if result.child_processes:
            parts.append(f"({result.peak_rss_source})")
        if isinstance(result, CellResult):
            parts += _training_figures(result)
        if result.error:
            parts.append(result.error)
        parts += [f"{name} pass failed: {error}" for name, error in (result.pass_errors or {}).items()]
        if isinstance(result, CallResult):
            parts += [f"{name} pass: {text}" for name, text in (result.pass_differences or {}).items()]
        done = len(self.finished)
        left_s = self._elapsed_s / done * max(0, self.expected_cells - done) if done else 0.0
        # A benchmark that chooses its cells while it runs does not know how many it has.
        parts.append(
            f"[{done}/{self.expected_cells}, {format_seconds(left_s)} left]" if self.expected_cells else f"[{done}]"
        )
        return one_line("  ".join(parts))

    def _record(self, result: Recorded) -> Recorded:
        resumed = self._resumed_session
        session, shard = (resumed.session, resumed.shard) if resumed else (self._name, self._shard)
        result = replace(result, session=session or self._name, shard=shard)
        self.finished.append(result)
        if self.results_path is not None:
            append_result(self.results_path, result)
        return result

    @cached_property
    def _resumed_session(self) -> Result | None:
        """A result of the session under whose name this one goes on; None: it has a name of its own."""
        own = [result for result in self._earlier if result.shard == self._shard]
        # Another shard of the same sweep may still run; what counted its shards in another way is over.
        others = [result for result in self._earlier if shard_count(result.shard) != shard_count(self._shard)]
        return max(own or others, key=started_at, default=None)

    @cached_property
    def _earlier(self) -> list[Result]:
        """The results of the newest session in the results file that are comparable with those of this session."""
        if not self._resume or self.results_path is None or not self.results_path.is_file():
            return []
        own = conditions_of(Result(**taken_on()))
        corpus_of = cache(self._cells.corpus_sha256)
        comparable = [
            result
            for result in read_results([self.results_path])
            if not differences("same code", conditions_of(result), own, where_known=True)
            and not (
                isinstance(result, CellResult)
                and result.corpus_sha256
                and result.corpus_sha256 != corpus_of(result.workload)
            )
        ]
        return newest_session(comparable)


def _settled(cell: Cell, results: Iterable[Result]) -> CellResult | None:
    of_cells = (result for result in results if isinstance(result, CellResult))
    return next((result for result in of_cells if result.status in SETTLED and result.cell == cell), None)


def _training_figures(result: CellResult) -> list[str]:
    parts = []
    if result.step_time_s is not None and WORKLOADS[result.workload].warm_up_batch:
        parts.append(f"{format_seconds(result.step_time_s)} a step")
    if result.final_loss is not None:
        parts.append(f"loss {result.final_loss:.3f}")
    before, after = (result.metrics_before or {}).get("mrr@10"), result.figure("mrr@10")
    if before is not None and after is not None:
        parts.append(f"MRR@10 {before:.3f} to {after:.3f}")
    return parts
