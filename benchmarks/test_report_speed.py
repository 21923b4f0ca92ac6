"""The time of a report over a thousand cells, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult

CELLS = 1000
LIMIT_S = 10.0
MIB = 2**20


def results_file(folder: Path) -> Path:
    """A thousand cells of a grid, each with a loss for every step."""
    axes = product(
        range(1, 26), (1, 2, 4, 8, 16), (1, 4), ("standard", "article", "memory-efficient", "minimal-memory")
    )
    lines = []
    for seed, batch_size, accumulation, mode in axes:
        cell = Cell(
            workload="tiny",
            device="cpu",
            batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            memory_mode=mode,
            seed=seed,
        )
        result = CellResult.of_cell(
            cell,
            status="ok",
            wall_time_s=20.0 + seed,
            step_time_s=0.1 * accumulation,
            queries_seen=1600,
            baseline_rss_bytes=400 * MIB,
            peak_rss_bytes=(500 + 10 * batch_size + seed) * MIB,
            losses=[1.0] * 200,
            metrics={"mrr@10": 0.3, "candidate_p@1": 0.9},
            metrics_before={"mrr@10": 0.2},
            machine={"processor": "none"},
        )
        lines.append(result.to_json())
    assert len(lines) == CELLS
    path = folder / "results.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.takes_long
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_report_over_a_thousand_cells_takes_seconds_and_no_torch(tmp_path: Path, number: int) -> None:
    arguments = ["report", "--results", str(results_file(tmp_path)), "--output", str(tmp_path / "out")]
    arguments += ["--tables", str(tmp_path / "tables")]
    script = (
        "import sys; from splade_bench.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )

    start_s = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True)
    took_s = time.perf_counter() - start_s

    assert ended.returncode == 0, ended.stderr
    assert took_s <= LIMIT_S
    print(f"{CELLS} cells: {took_s:.1f} s")
