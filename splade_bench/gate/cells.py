"""What the gate compares: each cell and call over its runs, from the newest session of a results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splade_bench.errors import DataError, one_line
from splade_bench.results.conditions import BASELINE_CONDITIONS, conditions_of, differences
from splade_bench.results.figures import GATED, Figure
from splade_bench.results.records import SETTLED, AllocationSite, Int, Measurement, Result, Status
from splade_bench.results.reproduce import gate_name, reproduce
from splade_bench.results.sessions import newest_session, started_at

_LARGEST = 2**60


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCell:
    """A cell in a baseline, or several runs of a cell as one."""

    status: Status
    conditions: Mapping[str, Any]
    figures: Mapping[str, Any]
    """Numbers, as :func:`require_possible` checks."""
    spread: Mapping[str, Any] = field(default_factory=dict)
    """Largest minus smallest value over the runs, of the figures that several runs have."""
    live_peak_by_category: Mapping[str, Int] = field(default_factory=dict)
    live_peak_by_phase: Mapping[str, Int] = field(default_factory=dict)
    live_peak_operator: str | None = None
    memray_top_sites: Sequence[AllocationSite] = ()
    runs: int = 1
    child_processes: Int = 0
    """The most that a run of a call had: only peak RSS counts their memory."""
    reproduce: str = ""
    """The command that measures this cell alone."""
    pass_errors: Mapping[str, str] = field(default_factory=dict)
    """Memory passes that failed in any of the runs, each with the reason. A baseline has none."""

    def failed_pass(self, figure: Figure) -> str | None:
        """Why the memory pass that takes a figure failed; None if it did not, or the figure needs none."""
        error = self.pass_errors.get(figure.memory_pass or "")
        return None if error is None else one_line(f"the {figure.memory_pass} pass failed: {error}")


def gated_cells(results: Sequence[Result]) -> dict[str, GatedCell]:
    """Each cell and call by its name, over its runs.

    A cell with one run that failed has that run's status.

    Raises:
        DataError: a run is recorded twice, the runs of a cell were not taken under equal conditions, or a figure is
            out of range.
    """
    runs: dict[str, list[Measurement]] = {}
    for result in results:
        name = gate_name(result)
        if name is None or not isinstance(result, Measurement):
            continue
        if result in runs.setdefault(name, []):
            raise DataError(f"{one_line(name)}: one run is recorded twice ({result.started_at}); pass each file once")
        runs[name].append(result)
    return {name: _combine(name, of_cell) for name, of_cell in sorted(runs.items())}


def newest_sessions(results: Sequence[Result]) -> list[Result]:
    """The results of one file without those that a later session measured again.

    A session that resumes another one counts as that one, and the shards of a sweep count as one. If a session ran a
    cell again, the last run counts. If a round of a cell is now in another shard than in an older session, it counts
    in the newer one only.
    """
    by_name: dict[str | None, list[Result]] = {}
    for result in results:
        by_name.setdefault(gate_name(result), []).append(result)
    newest = [result for of_name in by_name.values() for result in newest_session(of_name)]
    kept = {id(result) for result in newest}
    last = {_run_key(result): result for result in sorted(newest, key=started_at)}

    def counts(result: Result) -> bool:
        its_last = last[_run_key(result)]
        is_settled = getattr(result, "status", None) in SETTLED
        return result is its_last or (is_settled and result.session == its_last.session)

    return [result for result in results if id(result) in kept and counts(result)]


def only_in_earlier_sessions(results: Sequence[Result]) -> list[str]:
    """Cells and calls of one file that its newest session did not measure."""
    newest = {gate_name(result) for result in newest_session(results)}
    names = dict.fromkeys(gate_name(result) for result in sorted(results, key=started_at))
    return [name for name in names if name and name not in newest]


def require_possible(name: str, figure: Figure, value: object) -> None:
    """Refuse a figure that cannot have been measured.

    Raises:
        DataError: it is not a number, not finite, absurdly large, or a negative size.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{one_line(name)}: {figure.name} {value!r} is not a number")
    if not -_LARGEST < value < _LARGEST or (figure.unit == "bytes" and value < 0):
        raise DataError(f"{one_line(name)}: {figure.name} {str(value)[:40]} is out of range")


def _run_key(result: Result) -> tuple[object, ...]:
    """What distinguishes a run from the others of the newest session."""
    return gate_name(result), getattr(result, "round", None)


def _combine(name: str, runs: Sequence[Measurement]) -> GatedCell:
    _require_equal_conditions(name, runs)
    ok = [run for run in runs if run.status == "ok"]
    figures: dict[str, float] = {}
    spread: dict[str, float] = {}
    for figure in GATED.values():
        values = [value for run in ok if (value := figure(run)) is not None]
        if values:
            figures[figure.name] = figure.over_runs(values)
            require_possible(name, figure, figures[figure.name])
        if len(values) > 1:
            spread[figure.name] = max(values) - min(values)
    conditions = conditions_of((ok or runs)[0])
    largest = max(runs, key=lambda run: run.live_peak_bytes or 0)
    return GatedCell(
        status=next((run.status for run in runs if run.status != "ok"), "ok"),
        conditions={name: conditions[name] for name in BASELINE_CONDITIONS if name in conditions},
        figures=figures,
        spread=spread,
        live_peak_by_category=largest.live_peak_by_category or {},
        live_peak_by_phase=largest.live_peak_by_phase or {},
        live_peak_operator=largest.live_peak_operator,
        memray_top_sites=tuple(largest.memray_top_sites or ()),
        runs=len(runs),
        child_processes=max(run.child_processes or 0 for run in runs),
        reproduce=reproduce(runs[0]),
        # The reason of the first run; a later run in which the pass succeeded does not make up for it.
        pass_errors={name: error for run in reversed(runs) for name, error in (run.pass_errors or {}).items()},
    )


def _require_equal_conditions(name: str, runs: Sequence[Measurement]) -> None:
    """A run that failed may not have said its conditions, except for its source tree."""
    ok = [conditions_of(run) for run in runs if run.status == "ok"]
    differing = dict.fromkeys(line for conditions in ok for line in differences("equal runs", ok[0], conditions))
    if len({run.source_tree for run in runs}) > 1:
        differing["source_tree"] = None
    if differing:
        conditions = f"different conditions ({', '.join(differing)}); pass only runs with equal conditions"
        raise DataError(one_line(f"{name}: its runs were made under {conditions}"))
