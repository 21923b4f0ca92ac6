"""The committed baseline of a gate: figures of each cell, what they were taken on, and what helps to find a culprit."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from splade_bench.errors import DataError, one_line
from splade_bench.files import write_whole_file
from splade_bench.gate.rules import METRICS, Conditions
from splade_bench.results.records import SETTLED, Measurement, Result, Status
from splade_bench.results.reproduce import gate_name, reproduce

BASELINE_VERSION = 1
UPDATE_FLAGS = "--update-baseline (pytest: --memory-update-baseline)"
_MAKE_IT = f"make it with {UPDATE_FLAGS}"
_ABSURD = 2**60
_MEMORY_TOLERANCE = 0.01
# How a cell of a baseline may have ended: running out of memory is known to happen, anything else is a fault.
_MAY_BE_KEPT = ("ok", "oom")
# What two runs must share for a figure to be held against another, by where that figure may be compared.
_MACHINE = (
    *("system", "architecture", "processor", "logical_cores", "memory_bytes", "allocator", "huge_pages"),
    *("threads", "device"),
)
CONDITIONS: Mapping[Conditions, Sequence[str]] = {
    "anywhere": ("torch", "max_steps"),
    "same interpreter": ("torch", "max_steps", "python", "memray", "system", "architecture", "threads"),
    "same machine": ("torch", "max_steps", *_MACHINE),
    "same corpus": ("torch", "max_steps", "corpus_sha256"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCell:
    """A cell in a baseline, or what several runs of it come to."""

    status: Status
    conditions: Mapping[str, Any]
    figures: Mapping[str, float]
    live_peak_by_category: Mapping[str, int] = field(default_factory=dict)
    live_peak_by_phase: Mapping[str, int] = field(default_factory=dict)
    live_peak_operator: str | None = None
    memray_top_sites: Sequence[Mapping[str, Any]] = ()
    runs: int = 1
    reproduce: str = ""
    """The command that measures this cell alone."""
    pass_errors: Mapping[str, str] = field(default_factory=dict)
    """Memory passes that failed in any of the runs, and why. A baseline has none."""

    def failed_pass(self, metric: str) -> str | None:
        """Why the memory pass that takes a figure failed; None: it did not, or there is none."""
        memory_pass = METRICS[metric].memory_pass
        if memory_pass is None or memory_pass not in self.pass_errors:
            return None
        return one_line(f"the {memory_pass} pass failed: {self.pass_errors[memory_pass]}")


_KEPT = [known.name for known in fields(GatedCell) if known.name != "pass_errors"]


def gated_cells(results: Sequence[Result]) -> dict[str, GatedCell]:
    """Each cell and call by its name, over its runs.

    Peaks that vary are the smallest of the runs; a peak that does not vary is the largest, so that none can hide.
    Loss and metrics are medians. A cell of which one run ended badly ended badly.

    Raises:
        DataError: a run is recorded twice, the runs of a cell were taken on different things, or a figure is negative
            or absurd.
    """
    runs: dict[str, list[Measurement]] = {}
    for result in results:
        name = gate_name(result)
        if name is not None and isinstance(result, Measurement):
            _refuse_duplicate(name, result, runs.setdefault(name, []))
            runs[name].append(result)
    return {name: _together(name, of_cell) for name, of_cell in sorted(runs.items())}


def of_newest_sessions(results: Sequence[Result]) -> list[Result]:
    """The results of one file without those that a later session measured anew: files are appended to.

    A session that goes on with another is one with it; of what was tried again, how it ended last counts.
    """
    session_of = _newest_sessions(results)
    last = {_run_of(result): result for result in sorted(results, key=_start)}
    return [
        result
        for result in results
        if result.session == session_of[gate_name(result)]
        and (result is last[_run_of(result)] or getattr(result, "status", None) in SETTLED)
    ]


def of_earlier_sessions(results: Sequence[Result]) -> list[str]:
    """Cells and calls of one file that its newest session did not measure."""
    newest = max(results, key=_start, default=None)
    return [
        name for name, session in _newest_sessions(results).items() if name and newest and session != newest.session
    ]


def _newest_sessions(results: Sequence[Result]) -> dict[str | None, str | None]:
    """The session that last measured each cell and call."""
    return {gate_name(result): result.session for result in sorted(results, key=_start)}


def _start(result: Result) -> str:
    return result.started_at or ""


def _run_of(result: Result) -> tuple[object, ...]:
    """What tells a run from every other of its session."""
    return gate_name(result), result.session, getattr(result, "round", None)


def read_baseline(path: Path) -> dict[str, GatedCell]:
    """The cells of a baseline file.

    Raises:
        DataError: it is missing, empty, no baseline, from another version, or holds a cell twice or an absurd figure.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the baseline cannot be read: {error}; {_MAKE_IT}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no baseline: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("cells"), dict):
        raise DataError(f"{path}: is no baseline (no cells); {_MAKE_IT}")
    if record.get("baseline_version") != BASELINE_VERSION:
        raise DataError(
            f"{path}: has baseline_version {record.get('baseline_version')}, this version reads {BASELINE_VERSION}"
        )
    if not record["cells"]:
        raise DataError(f"{path}: the baseline holds no cells; {_MAKE_IT}")
    return {name: _parse_cell(path, name, cell) for name, cell in record["cells"].items()}


def write_baseline(path: Path, cells: Mapping[str, GatedCell]) -> None:
    """Write a baseline whole or not at all: sorted, a figure a line, so that a change of it reads as a diff.

    Raises:
        DataError: there is nothing to write, or it cannot be written.
    """
    if not cells:
        raise DataError(f"{path}: there are no cells to make a baseline of")
    for name, cell in cells.items():
        if cell.status not in _MAY_BE_KEPT:
            raise DataError(f"{path}: not written: {one_line(name)} ended as {cell.status}")
        if cell.pass_errors:
            failed = ", ".join(
                f"its {memory_pass} pass failed: {error}" for memory_pass, error in cell.pass_errors.items()
            )
            raise DataError(f"{path}: not written: {one_line(f'{name}: {failed}')}")
    kept = {name: {key: value for key, value in asdict(cell).items() if key in _KEPT} for name, cell in cells.items()}
    record = {"baseline_version": BASELINE_VERSION, "cells": kept}
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_file(path, text)
    except OSError as error:
        raise DataError(f"{path}: the baseline cannot be written: {error.strerror}") from error


def _refuse_duplicate(name: str, result: Measurement, others: Sequence[Measurement]) -> None:
    if result in others:
        raise DataError(f"{one_line(name)}: the same run is recorded twice ({result.started_at}); pass each file once")


def _refuse_mixture(name: str, runs: Sequence[Measurement]) -> None:
    """Runs count as one only where they could have been one.

    One that did not come to its end may not have said what it ran on.
    """
    taken_on = [_conditions(run) for run in runs if run.status == "ok"]
    differing = [key for key in (taken_on or [{}])[0] if any(one[key] != taken_on[0][key] for one in taken_on)]
    if any(run.source_tree != runs[0].source_tree for run in runs):
        differing.append("source_tree")
    if differing:
        raise DataError(f"{one_line(name)}: its runs differ in {', '.join(differing)}; pass results of one kind")


def _together(name: str, runs: Sequence[Measurement]) -> GatedCell:
    _refuse_mixture(name, runs)
    ok = [run for run in runs if run.status == "ok"]
    bad = [run for run in runs if run.status != "ok"]
    figures: dict[str, float] = {}
    for metric in METRICS:
        values = [value for run in ok if (value := run.figure(metric)) is not None]
        if values:
            figures[metric] = _OVER_RUNS.get(metric, min)(values)
            _refuse_absurd(name, metric, figures[metric])
    shown = max(runs, key=lambda run: run.live_peak_bytes or 0)
    return GatedCell(
        status=bad[0].status if bad else "ok",
        conditions=_conditions((ok or runs)[0]),
        figures=figures,
        live_peak_by_category=shown.live_peak_by_category or {},
        live_peak_by_phase=shown.live_peak_by_phase or {},
        live_peak_operator=shown.live_peak_operator,
        memray_top_sites=tuple(shown.memray_top_sites or ()),
        runs=len(runs),
        reproduce=reproduce(runs[0]),
        # The first run of a pass says why; a later one that came to its end does not make up for it.
        pass_errors={name: error for run in reversed(runs) for name, error in (run.pass_errors or {}).items()},
    )


_OVER_RUNS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "live_peak_bytes": max,
    "planned_live_peak_bytes": max,
    "final_loss": statistics.median,
    "mrr@10": statistics.median,
}


def conditions_of(machine: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """What decides where figures may be compared, as far as ``machine`` and ``versions`` say."""
    found = {name: machine[name] for name in _MACHINE if name in machine}
    for name in ("torch", "python", "memray"):
        version = versions.get(name)
        found[name] = ".".join(version.split("+")[0].split(".")[:2]) if version else None  # the minor version
    return found


def is_same(condition: str, before: Any, after: Any) -> bool:
    """Whether two machines agree in a condition.

    In memory they do within a hundredth: virtual machines of one class differ by some hundred KiB.
    """
    if condition == "memory_bytes" and before and after:
        return bool(abs(after - before) <= _MEMORY_TOLERANCE * before)
    return bool(before == after)


def _conditions(run: Measurement) -> dict[str, Any]:
    of_the_cell = {name: getattr(run, name, None) for name in ("max_steps", "corpus_sha256")}
    return conditions_of(run.machine, run.versions) | of_the_cell


def _refuse_absurd(where: str, metric: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise DataError(f"{one_line(where)}: {metric} {value!r} is no number")
    if not -_ABSURD < value < _ABSURD or (METRICS[metric].in_bytes and value < 0):
        raise DataError(f"{one_line(where)}: {metric} {str(value)[:40]} is nothing that can have been measured")


def _parse_cell(path: Path, name: str, cell: Any) -> GatedCell:
    where = f"{path}: {name}"
    if not isinstance(cell, dict) or not {"status", "conditions", "figures"} <= set(cell):
        raise DataError(f"{where}: lacks its status, conditions or figures")
    if cell["status"] not in get_args(Status):
        raise DataError(f"{where}: has the unknown status {cell['status']!r}")
    for objects in ("figures", "conditions", "live_peak_by_category", "live_peak_by_phase"):
        if not isinstance(cell.get(objects, {}), dict):
            raise DataError(f"{where}: its {objects} are no object")
    for objects in ("live_peak_by_category", "live_peak_by_phase"):
        if not all(isinstance(size, int) for size in cell.get(objects, {}).values()):
            raise DataError(f"{where}: its {objects} are no sizes")
    sites = cell.get("memray_top_sites", [])
    if not isinstance(sites, list) or not all(
        isinstance(site, dict) and isinstance(site.get("site"), str) and isinstance(site.get("size_bytes"), int)
        for site in sites
    ):
        raise DataError(f"{where}: its memray_top_sites are no sites with sizes")
    known = {metric: value for metric, value in cell["figures"].items() if metric in METRICS}
    for metric, value in known.items():
        _refuse_absurd(where, metric, value)
    return GatedCell(**{**{name: cell[name] for name in _KEPT if name in cell}, "figures": known})


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands twice")
        found[name] = value
    return found
