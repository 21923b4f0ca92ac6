"""Results as a gate gets them."""

from __future__ import annotations

from typing import Any

from results import MIB, make_cell_result

from splade_bench.gate.cells import GatedCell, gated_cells
from splade_bench.results.records import CellResult, Result

NAME = "tiny-cpu-b8-a1-standard-seed42"
MACHINE = {
    **{"system": "Linux", "architecture": "x86_64", "processor": "Test", "logical_cores": 2, "threads": 2},
    **{"memory_bytes": 8 * 2**30, "allocator": "glibc 2.36", "huge_pages": "madvise", "device": "cpu"},
}
VERSIONS = {"torch": "2.13.0+cpu", "python": "3.11.7", "memray": "1.20.0"}
_FIGURES: dict[str, Any] = {
    **{"live_peak_bytes": 1000 * MIB, "peak_rss_bytes": 1500 * MIB, "final_loss": 2.0, "metrics": {"mrr@10": 0.3}},
    **{"live_peak_by_category": {"parameters": 100 * MIB, "logits": 900 * MIB}},
    **{"live_peak_by_phase": {"forward": 1000 * MIB, "backward": 900 * MIB}, "live_peak_operator": "aten.mm"},
    **{"corpus_sha256": "c", "machine": MACHINE, "versions": VERSIONS, "started_at": "then"},
}


def make_result(**changes: Any) -> CellResult:
    """A cell with every figure that the default rules are about."""
    return make_cell_result(**(_FIGURES | changes))


def cells(*results: Result) -> dict[str, GatedCell]:
    return gated_cells(results or [make_result()])
