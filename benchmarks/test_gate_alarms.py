"""The gate on unchanged code: a hundred times, each with new measurements, without a false alarm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.bench.cells import CellRunner
from splade_bench.bench.protocol import MemoryPass
from splade_bench.gate.cells import GatedCell, gated_cells
from splade_bench.gate.rules import DEFAULT_RULES
from splade_bench.gate.verdict import check, verdict_lines
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES
from splade_bench.results.records import CellResult

RUNS = 100
PROCESSES = 3


def measure(cell: Cell, cache: Path, passes: tuple[MemoryPass, ...]) -> CellResult:
    with CellRunner(cache=cache, timeout_s=600, memory_passes=passes).start(cell) as run:
        run.wait_until_ready()
        run.train()
        return run.finish()


def measure_as_for_a_gate(cell: Cell, cache: Path) -> dict[str, GatedCell]:
    """The cell in three processes; a fourth counts its live bytes, which are always the same."""
    return gated_cells(
        [
            measure(replace(cell, round=number), cache, ("live",) if number == 1 else ())
            for number in range(1, PROCESSES + 1)
        ]
    )


@pytest.mark.takes_long
@pytest.mark.part(minutes=40)
def test_unchanged_code_raises_no_alarm(reports_folder: Path, tmp_path: Path) -> None:
    cell = next(cell for cell in PROFILES["gate"].cells() if cell.memory_mode == "memory-efficient")
    baseline = measure_as_for_a_gate(cell, tmp_path)
    (name,) = baseline
    log, alarms = [], []
    for number in range(1, RUNS + 1):
        current = measure_as_for_a_gate(cell, tmp_path)
        verdict = check(current, baseline, DEFAULT_RULES)
        figures = ", ".join(f"{figure} {value:g}" for figure, value in sorted(current[name].figures.items()))
        log.append(f"run {number}: exit code {verdict.exit_code}, {verdict.evaluated} checks: {figures}")
        if verdict.exit_code != 0 or verdict.not_evaluated:
            alarms.append(verdict_lines(verdict))
    (reports_folder / "gate-alarms.log").write_text("\n".join(log) + "\n")

    assert alarms == []
