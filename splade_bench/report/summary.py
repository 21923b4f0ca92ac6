"""A summary for a CI run's page or a pull request's comment: the worst cells first, as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.report.formatting import mib, number
from splade_bench.report.markdown import markdown
from splade_bench.report.modes import REFERENCE_MODE, compare_modes
from splade_bench.report.page import Page, table_of
from splade_bench.results.figures import added_bytes, mrr_at_10, peak_bytes
from splade_bench.results.records import CellResult, Result

# GitHub refuses a step's summary above 1 MiB, and a comment above 65,536 characters.
GITHUB_SUMMARY_BYTES = 2**20
COMMENT_BYTES = 65_536


def summary(results: Sequence[Result], pages: Sequence[Page], *, limit_bytes: int) -> str:
    """Markdown of at most ``limit_bytes`` in UTF-8: the modes compared, then each cell, the worst first.

    Failed cells come first, then those with the highest peaks. A last line counts the rows that have no room.
    """
    cells = [result for result in results if isinstance(result, CellResult)]
    cells.sort(key=lambda cell: (cell.status == "ok", -(peak_bytes(cell) or 0), cell.cell_id, cell.seed))
    compared = [
        comparison
        for comparison in compare_modes(cells)
        if comparison.memory_mode in MEMORY_MODES and comparison.memory_mode != REFERENCE_MODE
    ]
    lines = [
        "## splade-bench",
        "",
        f"{len(cells)} cells, {sum(cell.status != 'ok' for cell in cells)} failed. "
        f"Pages: {', '.join(page.name for page in pages)}.",
        "",
        *(f"- {comparison.in_words}" for comparison in compared),
        *([""] if compared else []),
    ]
    table = table_of(
        "summary",
        cells,
        [
            ("cell", lambda cell: cell.cell_id),
            ("seed", lambda cell: str(cell.seed)),
            ("status", lambda cell: cell.status),
            ("time, s", lambda cell: number(cell.wall_time_s, ".1f")),
            ("peak memory, MiB", lambda cell: mib(peak_bytes(cell))),
            ("added memory, MiB", lambda cell: mib(added_bytes(cell))),
            ("loss", lambda cell: number(cell.final_loss, ".3f")),
            ("MRR@10", lambda cell: number(mrr_at_10(cell), ".3f")),
            ("error", lambda cell: cell.error or ""),
        ],
    )
    rows = markdown(table.headings, table.rows).splitlines() if cells else []
    return _cut([*lines, *rows[:2]], rows[2:], limit_bytes)


def _cut(head: Sequence[str], rows: Sequence[str], limit_bytes: int) -> str:
    """The head and as many rows as fit, with a line that counts the others."""
    note = "\n… and {} more rows without room here."
    room_bytes = limit_bytes - len("\n".join(head).encode()) - len(note.format(len(rows)).encode()) - 2
    kept: list[str] = []
    for row in rows:
        room_bytes -= len(row.encode()) + 1
        if room_bytes < 0:
            break
        kept.append(row)
    left = len(rows) - len(kept)
    return "\n".join([*head, *kept, *([note.format(left)] if left else [])]) + "\n"
