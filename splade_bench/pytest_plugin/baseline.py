"""The baseline of :mod:`splade_bench.pytest_plugin`: read before anything runs, compared or updated at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from splade_bench.bench.session import MeasuringSession
from splade_bench.errors import SpladeBenchError, one_line
from splade_bench.gate.baseline import read_baseline, write_baseline
from splade_bench.gate.cells import GatedCell, gated_cells, newest_sessions
from splade_bench.gate.rules import DEFAULT_RULES, Rule, parse_rule
from splade_bench.gate.verdict import check, require_cells, require_comparable, verdict_lines
from splade_bench.measure.machine import machine_info, versions
from splade_bench.pytest_plugin.options import MemoryOptions
from splade_bench.results.conditions import conditions_of
from splade_bench.results.records import Result


def require_baseline(options: MemoryOptions) -> None:
    """Refuse a baseline that is missing, damaged, or not comparable with anything measured here.

    Raises:
        pytest.UsageError: it names the file and what is wrong.
    """
    try:
        here = Result(machine=machine_info(), versions=versions())
        require_comparable(*_baseline_and_rules(options), conditions_of(here))
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error


def require_fitting_rules(options: MemoryOptions, test_ids: Sequence[str]) -> None:
    """Refuse a rule whose CELLS fit no name in the baseline, nor one that a moved call has in these tests.

    Raises:
        pytest.UsageError: it names the rule.
    """
    try:
        require_cells(*_baseline_and_rules(options), test_ids)
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error


def judge(measuring: MeasuringSession | None, options: MemoryOptions, *, ended_well: bool) -> tuple[list[str], bool]:
    """Compare all results of the run with the baseline, or write them to it: lines to show, and whether the run fails.

    Results that ``--resume`` took from the file count too.
    """
    try:
        current = gated_cells(newest_sessions([*measuring.reused, *measuring.finished] if measuring else []))
        if options.update_baseline:
            return _update(current, options.baseline_path, ended_well=ended_well)
        verdict = check(current, *_baseline_and_rules(options))
    except SpladeBenchError as error:
        return [one_line(str(error))], True
    return verdict_lines(verdict), verdict.exit_code != 0


def _update(current: Mapping[str, GatedCell], path: Path | None, *, ended_well: bool) -> tuple[list[str], bool]:
    assert path is not None
    if not ended_well:
        return ["baseline not written: a test failed, no test ran, or the run was interrupted"], True
    before = read_baseline(path) if path.exists() else {}
    write_baseline(path, current)
    removed = [f"no longer in the baseline: {one_line(name)}" for name in before if name not in current]
    return [f"baseline written to {path}", *removed], False


def _baseline_and_rules(options: MemoryOptions) -> tuple[Mapping[str, GatedCell], Sequence[Rule]]:
    assert options.baseline_path is not None
    rules = [parse_rule(text) for text in options.fail_on] or DEFAULT_RULES
    return read_baseline(options.baseline_path), rules
