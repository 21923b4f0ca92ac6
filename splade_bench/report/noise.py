"""Which runs were measured in bad company: beside other processes that computed, or in a slow minute."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from splade_bench.report.formatting import MISSING
from splade_bench.report.page import Columns, Text
from splade_bench.report.readers import group_by
from splade_bench.results.conditions import conditions_of
from splade_bench.results.head import HeadResult
from splade_bench.results.records import CellResult, Measurement, Result

Row = TypeVar("Row")
Timed: TypeAlias = Measurement | HeadResult

HEADING = "in bad company"
OTHERS_SHARE = 0.05
"""Of the logical cores: what other processes may keep busy, besides those that a cell asks for."""
GEMM_SHARE = 0.85
"""Of the median rate of the same machine and workload: in a quiet campaign, the lowest was 0.88."""
_LEAST_RATES = 3
_USUAL_CORES = 2  # if the record does not say it


def in_bad_company(results: Sequence[Result]) -> list[Timed]:
    """The measurements whose times cannot be trusted, as far as their records say."""
    measured = [result for result in results if isinstance(result, (Measurement, HeadResult))]
    slow = {
        id(run)
        for group in group_by([run for run in measured if isinstance(run, (CellResult, HeadResult))], _alike).values()
        for run in _slow(group)
    }
    return [run for run in measured if id(run) in slow or _disturbed(run)]


def noise_columns(rows: Sequence[Row], runs_of: Callable[[Row], Sequence[Timed]]) -> Columns[Row]:
    """A column with the number of runs of each row that were measured in bad company; none if none was."""
    marked = {id(run) for run in in_bad_company([run for row in rows for run in runs_of(row)])}

    def text(row: Row) -> str:
        runs = runs_of(row)
        count = sum(id(run) in marked for run in runs)
        return f"{count} of {len(runs)}" if count else MISSING

    return [(HEADING, text)] if marked else []


def noise_note(results: Sequence[Result]) -> list[Text]:
    """A sentence about the runs that were measured in bad company; nothing if none was."""
    count = len(in_bad_company(results))
    if not count:
        return []
    return [
        Text(
            f"**{count} of {len(results)} results were measured {HEADING}: other processes kept more than "
            f"{100 * OTHERS_SHARE:g} % of the logical cores busy, or the machine's GEMM rate was less than "
            f"{GEMM_SHARE:g} of its median. Do not trust their times.**"
        )
    ]


def _disturbed(run: Timed) -> bool:
    if run.others_cpu_time_s is None or not run.wall_time_s:
        return False
    if isinstance(run, Measurement) and run.child_processes:
        return False  # a child that still ran counted as another process
    allowed = OTHERS_SHARE * (run.machine.get("logical_cores") or _USUAL_CORES)
    expected = run.busy_processes if isinstance(run, CellResult) else 0
    # A tick of the system's clock is no company.
    return run.others_cpu_time_s > max((expected + allowed) * run.wall_time_s, 0.05)


def _slow(runs: Sequence[CellResult | HeadResult]) -> list[CellResult | HeadResult]:
    rates = [run.gemm_flops_per_s for run in runs if run.gemm_flops_per_s]
    if len(rates) < _LEAST_RATES:
        return []
    least = GEMM_SHARE * statistics.median(rates)
    return [run for run in runs if run.gemm_flops_per_s and run.gemm_flops_per_s < least]


def _alike(run: CellResult | HeadResult) -> tuple[object, ...]:
    """Equal for runs whose GEMM rates should be equal: machine, threads, and the size of the product."""
    conditions = conditions_of(run)
    machine = (conditions.get("processor"), conditions.get("logical_cores"), conditions.get("threads"))
    if isinstance(run, HeadResult):
        return *machine, run.hidden_size
    return *machine, run.workload, run.busy_processes
