"""A session under way: measures one thing after another, records each at once, and knows how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.cells import CellRun, CellRunner
from splade_bench.bench.isolate import CellError, run_figures_process
from splade_bench.bench.protocol import MEMORY_PASSES
from splade_bench.errors import ConfigError, one_line
from splade_bench.grid.cell import Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.limits import below_floor
from splade_bench.measure.machine import taken_on, utc_now
from splade_bench.results.records import (
    CALIBRATION,
    SETTLED,
    CallResult,
    CellResult,
    HeadResult,
    Measurement,
    PlanResult,
    Result,
    append_result,
    read_results,
)
from splade_bench.units import format_bytes, format_seconds

Recorded = TypeVar("Recorded", bound=Result)


class MeasuringSession:
    """Where results go, and how far the session is.

    Args:
        results_path: file to append results to; None: they are shown only.
        resume: whether results that the file holds already, of the same cell, source tree, machine, versions and
            corpus, stand for a run.
    """

    def __init__(
        self, *, results_path: Path | None, cells: CellRunner, calls: CallRunner, resume: bool = False
    ) -> None:
        self.results_path = results_path
        self.planned_cells = 0
        self.finished: list[Result] = []
        self.passed_over: list[Result] = []
        """What was not measured because the results file had it."""
        self._cells = cells
        self._calls = calls
        self._resume = resume
        self._elapsed_s = 0.0
        self._call_floors_bytes: dict[str, int] = {}

    def measure(self, cell: Cell, timed: Callable[[CellRun], object], *, test_id: str | None = None) -> CellResult:
        """Run ``cell``; ``timed`` waits until the run is ready and trains it, under whatever clock it likes.

        A cell without a memory limit of its own has the session's.

        Raises:
            DataError: the result cannot be written; it is among the finished ones all the same.
        """
        if cell.memory_limit_bytes is None:
            cell = replace(cell, memory_limit_bytes=self._calls.memory_limit_bytes)
        start_s = time.perf_counter()
        try:
            with self._cells.start(cell) as run:
                try:
                    timed(run)
                except CellError:
                    pass  # the run knows, and says so in its result
                result = run.finish()
        except CellError as failure:  # what the cell needs could not be made
            result = CellResult.of_cell(cell, **(taken_on() | failure.values), started_at=utc_now())
        self._elapsed_s += time.perf_counter() - start_s
        return self._record(replace(result, test_id=test_id))

    def measure_call(
        self,
        name: str,
        function: Callable[..., object],
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        *,
        test_id: str | None = None,
    ) -> CallResult:
        """Call ``function`` in a fresh process and record what it took.

        Raises:
            ConfigError: another process could not call it so, or the session's memory limit leaves no room for it.
            DataError: the result cannot be written; it is among the finished ones all the same.
        """
        self.require_room_for_call(function)
        result = self._calls.measure(name, function, arguments, keywords)
        return self._record(replace(result, test_id=test_id))

    def calibrate(self, function: Callable[..., object], *arguments: Any) -> CallResult:
        """Let every probe read what ``function`` takes, a known amount, and record it."""
        runner = replace(self._calls, memory_passes=MEMORY_PASSES, memory_timeline=True, memory_limit_bytes=None)
        name = " ".join([CALIBRATION, getattr(function, "__name__", ""), *map(str, arguments)])
        return self._record(runner.measure(name, function, arguments, {}))

    def recorded(self, cell: Cell) -> CellResult | None:
        """What is known of ``cell`` from this session or, where it resumes, from its results file; None: nothing."""
        return _settled(cell, self.finished) or self.resumed(cell)

    def resumed(self, cell: Cell) -> CellResult | None:
        """What the results file knew of ``cell`` before this session, where that resumes; None: nothing."""
        result = _settled(cell, self._earlier)
        if result is not None and result not in self.passed_over:
            self.passed_over.append(result)
        return result

    def measure_head(self, head: str, *, hidden_size: int, active_share: float) -> HeadResult:
        """Measure one head in a fresh process and record it."""
        started_at = utc_now()
        figures = run_figures_process(
            "splade_bench.worker.head_alone", head=head, hidden_size=hidden_size, active_share=active_share
        )
        return self._record(HeadResult(**(taken_on() | figures), started_at=started_at))

    def plan_article_run(self, name: str) -> PlanResult:
        """Plan one way to train what the article could not, in a fresh process, and record it."""
        started_at = utc_now()
        figures = run_figures_process("splade_bench.worker.article_plan", name=name)
        return self._record(PlanResult(**(taken_on() | figures), started_at=started_at))

    def require_room(self, cell: Cell) -> None:
        """Refuse a memory limit under which no cell could start.

        Raises:
            ConfigError: the cell's limit is below what a worker takes without a model.
        """
        limit_bytes = cell.memory_limit_bytes
        if limit_bytes is None or cell.device != "cpu":  # an accelerator's allocator has nothing before the model
            return
        try:
            floor_bytes = self._cells.floor_bytes(cell)
        except CellError as failure:
            raise ConfigError(f"--memory-limit: what a worker takes could not be measured: {failure}") from failure
        if limit_bytes <= floor_bytes:
            raise ConfigError(below_floor(limit_bytes, floor_bytes))

    def require_room_for_call(self, function: Callable[..., object]) -> None:
        """Refuse a memory limit under which the function's module could not even be imported.

        Raises:
            ConfigError: the session's limit is below what a worker takes before the call.
        """
        limit_bytes = self._calls.memory_limit_bytes
        if limit_bytes is None:
            return
        module = function.__module__
        if module not in self._call_floors_bytes:
            try:
                self._call_floors_bytes[module] = self._calls.floor_bytes(function)
            except CellError:
                return  # the call will fail in the same way, and its record says how
        if limit_bytes <= self._call_floors_bytes[module]:
            raise ConfigError(below_floor(limit_bytes, self._call_floors_bytes[module]))

    def gradient_error(self, cell: Cell) -> float:
        """See :meth:`splade_bench.bench.cells.CellRunner.gradient_error`."""
        return self._cells.gradient_error(cell)

    def line(self, result: Measurement) -> str:
        """One line for people: what came out, and the time that is left."""
        parts = [result.cell_id if isinstance(result, CellResult) else getattr(result, "name", ""), result.status]
        if result.wall_time_s is not None:
            parts.append(format_seconds(result.wall_time_s))
        if result.peak_rss_bytes is not None:
            parts.append(f"peak {format_bytes(result.peak_rss_bytes)}")
        if isinstance(result, CellResult):
            parts += _training_figures(result)
        if result.error:
            parts.append(result.error)
        parts += [f"{name} pass {error}" for name, error in (result.pass_errors or {}).items()]
        done = len(self.finished)
        left_s = self._elapsed_s / done * max(0, self.planned_cells - done) if done else 0.0
        # A benchmark that chooses its cells as it goes has no number of them.
        parts.append(
            f"[{done}/{self.planned_cells}, {format_seconds(left_s)} left]" if self.planned_cells else f"[{done}]"
        )
        return one_line("  ".join(parts))

    def _record(self, result: Recorded) -> Recorded:
        result = replace(result, session=self._name)
        self.finished.append(result)
        if self.results_path is not None:
            append_result(self.results_path, result)
        return result

    @cached_property
    def _name(self) -> str:
        """What its results are marked with: where it goes on with another session, as that one's."""
        return (self._earlier and self._earlier[0].session) or uuid4().hex

    @cached_property
    def _earlier(self) -> list[Result]:
        """What the newest session in the results file had measured, as far as it ran on what this one runs on."""
        if not self._resume or self.results_path is None or not self.results_path.is_file():
            return []
        own = taken_on()
        corpora: dict[str, str | None] = {}
        found = []
        for result in read_results([self.results_path]):
            if (result.source_tree, result.versions) != (own["source_tree"], own["versions"]):
                continue
            if {name: result.machine.get(name) for name in own["machine"]} != own["machine"]:
                continue
            if isinstance(result, CellResult) and result.corpus_sha256:
                if result.workload not in corpora:
                    corpora[result.workload] = self._cells.corpus_sha256(result.workload)
                if result.corpus_sha256 != corpora[result.workload]:
                    continue
            found.append(result)
        newest = max(found, key=lambda result: result.started_at or "", default=None)
        return [result for result in found if newest and result.session == newest.session]


def _settled(cell: Cell, results: Iterable[Result]) -> CellResult | None:
    for result in results:
        if isinstance(result, CellResult) and result.status in SETTLED and result.cell == cell:
            return result
    return None


def _training_figures(result: CellResult) -> list[str]:
    parts = []
    if result.step_time_s is not None and WORKLOADS[result.workload].warm_up_batch:
        parts.append(f"{format_seconds(result.step_time_s)} a step")
    if result.final_loss is not None:
        parts.append(f"loss {result.final_loss:.3f}")
    if result.metrics and result.metrics_before:
        parts.append(f"MRR@10 {result.metrics_before['mrr@10']:.3f} to {result.metrics['mrr@10']:.3f}")
    return parts
