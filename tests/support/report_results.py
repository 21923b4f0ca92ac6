"""Results of a sweep for the tests of the report, and a page's content as these tests read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results import CELL, MIB, make_cell_result

from splade_bench.report.page import Page, Text
from splade_bench.results.records import CellResult

MACHINE = {"processor": "Test", "logical_cores": 2, "threads": 2, "memory_bytes": 8 * 2**30, "system": "Linux"}
HOSTILE = "a|b`c`<script>alert(1)</script>\n\x1b[31mred*_[x](javascript:y)&amp;~~$\\frac$"


def make_result(
    mode: str = "standard", *, added_mib: float = 400, wall_time_s: float = 20.0, seed: int = 1, **changes: Any
) -> CellResult:
    """A cell of the tiny workload that ended well, above 400 MiB of runtime memory."""
    figures: dict[str, Any] = {
        "batch_size": 16,
        "step_time_s": 2.0,
        "queries_seen": 160,
        "optimizer_steps": 10,
        "baseline_rss_bytes": 400 * MIB,
        "peak_rss_bytes": int((400 + added_mib) * MIB),
        "final_loss": 1.0,
        "losses": [2.0 - number / 10 for number in range(10)],
        "metrics": {"mrr@10": 0.3, "candidate_p@1": 0.9, "query_active_dims": 10.0, "document_active_dims": 30.0},
        "metrics_before": {"mrr@10": 0.2},
        "corpus_sha256": "c" * 64,
        "machine": MACHINE,
        "versions": {"torch": "2.13.0"},
        "source_tree": "s" * 64,
    }
    return make_cell_result(CELL, memory_mode=mode, wall_time_s=wall_time_s, seed=seed, **figures | changes)


def make_sweep(seeds: Sequence[int] = (1, 2, 3)) -> list[CellResult]:
    """Two batch sizes of one effective batch in three modes: the lean one is lean and fast, accumulation saves some."""
    sweep = []
    for seed in seeds:
        drift = seed / 100
        for batch_size, accumulation, share in ((16, 1, 1.0), (4, 4, 0.5)):
            for mode, added_mib, wall_time_s in (
                ("standard", 400, 20.0),
                ("article", 400, 21.0),
                ("memory-efficient", 100, 5.0),
            ):
                sweep.append(
                    make_result(
                        mode,
                        added_mib=added_mib * share + seed,
                        wall_time_s=wall_time_s + drift,
                        seed=seed,
                        batch_size=batch_size,
                        gradient_accumulation_steps=accumulation,
                    )
                )
    return sweep


def rows_of(page: Page, name: str) -> list[dict[str, str]]:
    """The rows of the page's table with this name, each as heading -> text."""
    (table,) = [table for table in page.tables if table.name == name]
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows]


def row_of(page: Page, name: str, **values: str) -> dict[str, str]:
    """The one row of a table whose columns have these texts."""
    (row,) = [row for row in rows_of(page, name) if values.items() <= row.items()]
    return row


def text_of(page: Page) -> str:
    """All text of the page outside its tables."""
    return "\n\n".join(block.markdown for block in page.blocks if isinstance(block, Text))
