"""What stands on a CI run's page, or under a pull request: the worst first, as much as there is room for."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.config import MEMORY_MODES
from splade_bench.report.markdown import escape, markdown
from splade_bench.report.modes import REFERENCE_MODE, compare_modes
from splade_bench.report.page import Page
from splade_bench.report.tables import above_baseline_bytes, median_and_range, mib, number
from splade_bench.results.records import CellResult, Result

# GitHub refuses a step's summary above 1 MiB, and a comment above 65,536 characters.
GITHUB_SUMMARY_BYTES = 2**20
COMMENT_BYTES = 65_536
_HEADINGS = ("cell", "seed", "status", "time, s", "peak RSS, MiB", "above baseline, MiB", "loss", "MRR@10", "why")


def summary(results: Sequence[Result], pages: Sequence[Page], *, limit_bytes: int) -> str:
    """Markdown of at most ``limit_bytes`` in UTF-8: how modes compare, then each cell, the worst first.

    Worst are cells that did not end well, then those that took most memory. Rows for which there is no room are
    counted.
    """
    cells = sorted((result for result in results if isinstance(result, CellResult)), key=_badness)
    lines = [
        "## splade-bench",
        "",
        f"{len(cells)} cells, {sum(cell.status != 'ok' for cell in cells)} not measured to the end. "
        f"Pages: {', '.join(page.name for page in pages)}.",
        "",
        *_mode_lines(cells),
    ]
    table = markdown(_HEADINGS, [_row(cell) for cell in cells]).splitlines() if cells else []
    return _cut([*lines, *table[:2]], table[2:], limit_bytes)


def _badness(result: CellResult) -> tuple[bool, int, str, int]:
    return result.status == "ok", -(result.peak_rss_bytes or 0), result.cell_id, result.seed


def _row(result: CellResult) -> list[str]:
    return [
        result.cell_id,
        str(result.seed),
        result.status,
        number(result.wall_time_s, ".1f"),
        mib(result.peak_rss_bytes),
        mib(above_baseline_bytes(result)),
        number(result.final_loss, ".3f"),
        number(result.figure("mrr@10"), ".3f"),
        result.error or "",
    ]


def _mode_lines(cells: Sequence[CellResult]) -> list[str]:
    lines = [
        f"- **{escape(comparison.memory_mode)}**: "
        f"{median_and_range(comparison.above_baseline_ratios, '.2f')} times the memory above the baseline and "
        f"{median_and_range(comparison.time_ratios, '.2f')} times the time of {REFERENCE_MODE}"
        for comparison in compare_modes(cells)
        if comparison.memory_mode in MEMORY_MODES and comparison.memory_mode != REFERENCE_MODE
    ]
    return [*lines, ""] if lines else []


def _cut(head: Sequence[str], rows: Sequence[str], limit_bytes: int) -> str:
    """The head, and as many rows as fit with a line that counts the others."""
    note = "\n… and {} more rows, for which there is no room here."
    room_bytes = limit_bytes - len("\n".join(head).encode()) - len(note.format(len(rows)).encode()) - 2
    kept: list[str] = []
    for row in rows:
        room_bytes -= len(row.encode()) + 1
        if room_bytes < 0:
            break
        kept.append(row)
    left = len(rows) - len(kept)
    return "\n".join([*head, *kept, *([note.format(left)] if left else [])]) + "\n"
