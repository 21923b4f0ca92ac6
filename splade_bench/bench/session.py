"""A sweep under way: runs cells one after another, records each at once, and knows how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from splade_bench.bench.isolate import CellError, run_head_process
from splade_bench.bench.run import CellRun, CellRunner
from splade_bench.cell import WORKLOADS, Cell
from splade_bench.measure.machine import machine_info, source_tree, taken_on
from splade_bench.results import CellResult, HeadResult, Result, append_result, read_results
from splade_bench.units import format_bytes, format_seconds


class SweepSession:
    """Where a sweep's results go, and how far it is."""

    def __init__(
        self, *, reports: Path, results: Path | None, cache: Path, profile: str, cell_timeout_s: float
    ) -> None:
        started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        self.reports = reports
        self.results_path = results or reports / "results" / f"{started}-{profile}.jsonl"
        self.planned_cells = 0
        self.finished: list[Result] = []
        self._runner = CellRunner(cache=cache, timeout_s=cell_timeout_s)
        self._elapsed_s = 0.0

    def measure(self, cell: Cell, timed: Callable[[CellRun], object]) -> CellResult:
        """Run ``cell``; ``timed`` waits until the run is ready and trains it, under whatever clock it likes."""
        start_s = time.perf_counter()
        with self._runner.start(cell) as run:
            try:
                timed(run)
            except CellError:
                pass  # the run knows, and says so in its result
            result = run.finish()
        append_result(self.results_path, result)
        self.finished.append(result)
        self._elapsed_s += time.perf_counter() - start_s
        return result

    def recorded(self, cell: Cell, *, in_file: bool) -> CellResult | None:
        """What this session has measured of ``cell``; None if nothing.

        With ``in_file``, also what the results file holds from this source tree and machine.
        """
        earlier = read_results([self.results_path]) if in_file and self.results_path.is_file() else []
        own = source_tree(), machine_info()
        same = [result for result in earlier if (result.source_tree, _machine_only(result, own[1])) == own]
        for result in (*self.finished, *same):
            if isinstance(result, CellResult) and result.status == "ok" and result.cell == cell:
                return result
        return None

    def measure_head(self, head: str, *, hidden_size: int, active_share: float) -> HeadResult:
        """Measure one head in a fresh process and record it."""
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        figures = run_head_process(head, hidden_size=hidden_size, active_share=active_share)
        result = HeadResult(**(taken_on() | figures), started_at=started_at)
        append_result(self.results_path, result)
        self.finished.append(result)
        return result

    def gradient_error(self, cell: Cell) -> float:
        """See :meth:`splade_bench.bench.run.CellRunner.gradient_error`."""
        return self._runner.gradient_error(cell)

    def line(self, result: CellResult) -> str:
        """One line for people: what came out, and the time that is left."""
        parts = [result.cell_id, result.status]
        if result.wall_time_s is not None:
            parts.append(format_seconds(result.wall_time_s))
        if result.step_time_s is not None and WORKLOADS[result.workload].compares_trainers:
            parts.append(f"{format_seconds(result.step_time_s)} a step")
        if result.peak_rss_bytes is not None:
            parts.append(f"peak {format_bytes(result.peak_rss_bytes)}")
        if result.final_loss is not None:
            parts.append(f"loss {result.final_loss:.3f}")
        if result.metrics and result.metrics_before:
            parts.append(f"MRR@10 {result.metrics_before['mrr@10']:.3f} to {result.metrics['mrr@10']:.3f}")
        if result.error:
            parts.append(result.error)
        done = len(self.finished)
        left_s = self._elapsed_s / done * max(0, self.planned_cells - done)
        # A benchmark that chooses its cells as it goes has no number of them.
        parts.append(
            f"[{done}/{self.planned_cells}, {format_seconds(left_s)} left]" if self.planned_cells else f"[{done}]"
        )
        return "  ".join(parts)


def _machine_only(result: Result, names: Mapping[str, object]) -> dict[str, object]:
    """The result's machine as far as a process without torch can know it."""
    return {name: result.machine.get(name) for name in names}
