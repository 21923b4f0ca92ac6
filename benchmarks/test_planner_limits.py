"""Runs under a memory limit just above and just below their plan: the first ends well, the second runs out of memory.

Forty configurations, sampled by seed. ``reports/planner-limits.log`` gets one line for each.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.bench.cells import CellRun
from splade_bench.bench.isolate import WorkerError, WorkerProcess, result_of
from splade_bench.bench.protocol import CellRequest
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult
from splade_bench.units import format_bytes

CONFIGURATIONS = 40
TIMEOUT_S = 600.0
ABOVE, BELOW = 1.05, 0.90
# Workload -> batch sizes, from little more memory than the weights to a few gigabytes.
BATCH_SIZES = {
    "plan-bert-tiny-32": (8, 16, 32),
    "plan-bert-tiny-128": (4, 8, 16),
    "plan-bert-tiny-512": (1, 2, 4),
    "plan-mini-32": (4, 8, 16),
    "plan-mini-128": (1, 2, 4, 8),
}
MODES = (
    *("standard", "article", "memory-efficient", "minimal-memory"),
    *("memory-efficient+activation-checkpointing", "memory-efficient+optimizer-states-bfloat16"),
)


def configurations() -> list[Cell]:
    """Different cells, the same on every machine."""
    generator = random.Random(7)
    cells: dict[str, Cell] = {}
    while len(cells) < CONFIGURATIONS:
        workload = generator.choice(list(BATCH_SIZES))
        cell = Cell(
            workload=workload,
            device="cpu",
            batch_size=generator.choice(BATCH_SIZES[workload]),
            gradient_accumulation_steps=generator.choice((1, 2)),
            memory_mode=generator.choice(MODES),
            attention_dropout=generator.choice((0.0, 0.1)),
            max_steps=2,
        )
        cells.setdefault(cell.cell_id, cell)
    return list(cells.values())


def plan_of(cell: Cell) -> int:
    """Planned peak RSS in bytes, the runtime included."""
    return int(result_of(CellRequest(cell=cell, measure="plan"), timeout_s=TIMEOUT_S)["planned_peak_rss_bytes"])


def run(cell: Cell) -> CellResult:
    """The training alone, without memory passes."""
    request = CellRequest(cell=cell, measure="time")
    with WorkerProcess(request, timeout_s=TIMEOUT_S) as process:
        cell_run = CellRun(request=request, process=process, memory_passes=(), timeout_s=TIMEOUT_S)
        try:
            cell_run.wait_until_ready()
            cell_run.train()
        except WorkerError:
            pass  # the run's result says so
        return cell_run.finish()


def line(planned_bytes: int, above: CellResult, below: CellResult) -> str:
    peaks = [format_bytes(result.peak_rss_bytes) if result.peak_rss_bytes else "?" for result in (above, below)]
    return (
        f"{above.cell_id}: planned {format_bytes(planned_bytes)}; "
        f"x {ABOVE:.2f}: {above.status}, peak {peaks[0]}; "
        f"x {BELOW:.2f}: {below.status} in {below.phase}, peak {peaks[1]}"
    )


@pytest.mark.takes_long
@pytest.mark.part(minutes=10)
def test_a_run_survives_just_above_its_plan_and_not_just_below(reports_folder: Path) -> None:
    path = reports_folder / "planner-limits.log"
    lines, wrong = [], []
    for cell in configurations():
        planned_bytes = plan_of(cell)
        above, below = (run(replace(cell, memory_limit_bytes=round(planned_bytes * share))) for share in (ABOVE, BELOW))
        lines.append(line(planned_bytes, above, below))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if (above.status, below.status) != ("ok", "oom"):
            wrong.append(lines[-1])

    assert wrong == []
