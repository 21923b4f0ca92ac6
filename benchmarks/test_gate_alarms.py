"""The gate on unchanged code, with new measurements each time: no false alarm, on a quiet machine and in company.

``--rounds`` sets how many times. The logs are ``reports/gate-alarms.log`` and ``reports/gate-alarms-company.log``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.bench.busy import busy_processes
from splade_bench.bench.cells import CellRunner
from splade_bench.bench.protocol import MemoryPass
from splade_bench.gate.cells import GatedCell, gated_cells
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule
from splade_bench.gate.verdict import Verdict, check, verdict_lines
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES
from splade_bench.results.records import CellResult

RUNS = 100
PROCESSES = 3
CELL = next(cell for cell in PROFILES["gate"].cells() if cell.memory_mode == "memory-efficient")
# Of figures that do not depend on the machine, as `tox -e gate` has them.
RULES_ANYWHERE = [parse_rule("live_peak_bytes:1%"), parse_rule("final_loss:5%")]
PLANTED = 0.02


@pytest.fixture
def runs(pytestconfig: pytest.Config) -> range:
    return range(1, 1 + (pytestconfig.getoption("--rounds") or RUNS))


def measure(cell: Cell, cache: Path, passes: tuple[MemoryPass, ...]) -> CellResult:
    with CellRunner(cache=cache, timeout_s=600, memory_passes=passes).start(cell) as run:
        run.wait_until_ready()
        run.train()
        return run.finish()


def measure_as_for_a_gate(cache: Path) -> dict[str, GatedCell]:
    """The cell in three processes; a fourth counts its live bytes, which are always the same."""
    return gated_cells(
        [
            measure(replace(CELL, round=number), cache, ("live",) if number == 1 else ())
            for number in range(1, PROCESSES + 1)
        ]
    )


def line(number: int, verdict: Verdict, current: Mapping[str, GatedCell]) -> str:
    (cell,) = current.values()
    figures = ", ".join(f"{figure} {value:g}" for figure, value in sorted(cell.figures.items()))
    return f"run {number}: exit code {verdict.exit_code}, {verdict.evaluated} checks: {figures}"


@pytest.mark.takes_long
@pytest.mark.part(minutes=40)
def test_unchanged_code_raises_no_alarm(reports_folder: Path, tmp_path: Path, runs: range) -> None:
    baseline = measure_as_for_a_gate(tmp_path)
    log, alarms = [], []
    for number in runs:
        current = measure_as_for_a_gate(tmp_path)
        verdict = check(current, baseline, DEFAULT_RULES)
        log.append(line(number, verdict, current))
        if verdict.exit_code != 0 or verdict.not_evaluated:
            alarms.append(verdict_lines(verdict))
    (reports_folder / "gate-alarms.log").write_text("\n".join(log) + "\n")

    assert alarms == []


@pytest.mark.takes_long
@pytest.mark.part(minutes=40)
def test_beside_a_busy_process_what_no_machine_changes_raises_no_alarm_and_hides_nothing(
    reports_folder: Path, tmp_path: Path, runs: range
) -> None:
    baseline = gated_cells([measure(CELL, tmp_path, ("live",))])
    log, alarms, hidden = [], [], []
    for number in runs:
        with busy_processes(1):
            result = measure(CELL, tmp_path, ("live",))
        assert result.wall_time_s, result.error
        current = gated_cells([result])
        verdict = check(current, baseline, RULES_ANYWHERE)
        cores = (result.others_cpu_time_s or 0.0) / result.wall_time_s
        log.append(f"{line(number, verdict, current)}; {cores:.1f} cores busy with other work")
        if verdict.exit_code != 0 or verdict.not_evaluated:
            alarms.append(verdict_lines(verdict))
        hidden += hidden_in(check(with_planted(current), baseline, RULES_ANYWHERE), current)
    (reports_folder / "gate-alarms-company.log").write_text("\n".join(log) + "\n")

    assert alarms == []
    assert hidden == []


def with_planted(current: Mapping[str, GatedCell]) -> dict[str, GatedCell]:
    """The same cells, each figure a little worse."""
    return {
        name: replace(cell, figures={figure: value * (1 + PLANTED) for figure, value in cell.figures.items()})
        for name, cell in current.items()
    }


def hidden_in(verdict: Verdict, current: Mapping[str, GatedCell]) -> list[str]:
    """Figures whose planted regression is neither noticed, nor said to be too small or not judged."""
    said = {regression.metric for regression in verdict.regressions} | set(verdict.unjudged)
    said |= {one.metric for one in verdict.sensitivities if one.change > PLANTED}
    assert any("not judged: " in shown and shown.endswith("times") for shown in verdict_lines(verdict))
    return [figure for cell in current.values() for figure in cell.figures if figure not in said]
