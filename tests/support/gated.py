"""Results as a gate gets them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from splade_bench.gate.baseline import GatedCell, gated_cells
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult, Result

MIB = 2**20
CELL = Cell(workload="tiny", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")
NAME = "tiny-cpu-b8-a1-standard-seed42"
MACHINE = {
    **{"system": "Linux", "architecture": "x86_64", "processor": "Test", "logical_cores": 2, "threads": 2},
    **{"memory_bytes": 8 * 2**30, "allocator": "glibc 2.36", "huge_pages": "madvise", "device": "cpu"},
}
VERSIONS = {"torch": "2.13.0+cpu", "python": "3.11.7", "memray": "1.20.0"}


def make_result(**changes: Any) -> CellResult:
    figures: dict[str, Any] = {
        **{"live_peak_bytes": 1000 * MIB, "peak_rss_bytes": 1500 * MIB, "final_loss": 2.0, "metrics": {"mrr@10": 0.3}},
        **{"live_peak_by_category": {"parameters": 100 * MIB, "logits": 900 * MIB}},
        **{"live_peak_by_phase": {"forward": 1000 * MIB, "backward": 900 * MIB}, "live_peak_operator": "aten.mm"},
        **{"corpus_sha256": "c", "machine": MACHINE, "versions": VERSIONS, "started_at": "then"},
    }
    return replace(CellResult.of_cell(CELL, status="ok", **figures), **changes)


def cells(*results: Result) -> dict[str, GatedCell]:
    return gated_cells(results or [make_result()])
