"""The table of cells: a row per grid point, over its seeds and rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from splade_bench.report.formatting import MISSING, number
from splade_bench.report.modes import modes_of
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Table, table_of
from splade_bench.report.provenance import counts
from splade_bench.report.readers import group_by, in_mib, median_of, mrr_before, over_runs, recorded, succeeded
from splade_bench.results.conditions import setup_key
from splade_bench.results.figures import FIGURES, Figure, Reader, mrr_at_10
from splade_bench.results.records import CellResult
from splade_bench.results.reproduce import reproduce


@dataclass(frozen=True, slots=True)
class GridPoint:
    """The runs of one cell over its seeds and rounds: one row of a table."""

    runs: Sequence[CellResult]

    @property
    def first(self) -> CellResult:
        return self.runs[0]

    @property
    def ok(self) -> list[CellResult]:
        return succeeded(self.runs)

    def median(self, reader: Reader) -> float | None:
        """Over the successful runs."""
        return median_of(self.ok, reader)

    def text(self, reader: Reader, form: str) -> str:
        """Median and range over the successful runs."""
        return over_runs(self.ok, reader, form)


def grid_points(results: Sequence[CellResult]) -> list[GridPoint]:
    """Results by cell and setup; small batches first, modes side by side."""
    groups = group_by(results, lambda result: (result.cell_id, setup_key(result)))
    modes = modes_of(results)
    return sorted(
        map(GridPoint, groups.values()),
        key=lambda point: (
            point.first.device,
            point.first.batch_size,
            point.first.gradient_accumulation_steps,
            point.first.processes,
            modes.index(point.first.memory_mode),
        ),
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and the text of a grid point in this column."""

    heading: str
    text: Callable[[GridPoint], str]
    shown: Literal["always", "known", "varies"] = "always"
    """Always, or only where a grid point has a value, or where the values differ."""

    def is_shown(self, points: Sequence[GridPoint]) -> bool:
        """Whether a table of these grid points has this column."""
        texts = {self.text(point) for point in points}
        return {"always": True, "known": bool(texts - {MISSING}), "varies": len(texts) > 1}[self.shown]


def _text(reader: Reader, form: str) -> Callable[[GridPoint], str]:
    return lambda point: point.text(reader, form)


def _figure_column(figure: Figure) -> Column:
    if figure.unit == "bytes":
        return Column(f"{figure.heading}, MiB", _text(in_mib(figure), ".0f"), figure.column or "always")
    heading = f"{figure.heading}, s" if figure.unit == "seconds" else figure.heading
    return Column(heading, _text(figure, ".3f" if figure.unit == "none" else ".1f"), figure.column or "always")


_COLUMNS = (
    Column("machine", lambda point: str(point.first.machine.get("processor")), "varies"),
    Column("source tree", lambda point: str(point.first.source_tree)[:8], "varies"),
    Column("device", lambda point: point.first.device),
    Column("batch", lambda point: str(point.first.batch_size)),
    Column("accumulation", lambda point: str(point.first.gradient_accumulation_steps)),
    Column("processes", lambda point: str(point.first.processes), "varies"),
    Column("mode", lambda point: point.first.memory_mode),
    Column("max steps", lambda point: number(point.first.max_steps, "d"), "known"),
    Column("limit, MiB", lambda point: number(in_mib(recorded("memory_limit_bytes"))(point.first), ".0f"), "known"),
    Column("runs", lambda point: counts(run.status for run in point.runs)),
    Column("optimizer steps", _text(recorded("optimizer_steps"), ".0f")),
    *(_figure_column(figure) for figure in FIGURES.values() if figure.column),
    Column("MRR@10", lambda point: f"{point.text(mrr_before, '.3f')} → {point.text(mrr_at_10, '.3f')}"),
    Column("active dims, query", _text(recorded("query_active_dims"), ".0f"), "known"),
    Column("active dims, document", _text(recorded("document_active_dims"), ".0f"), "known"),
)


def cell_table(points: Sequence[GridPoint], *, name: str, first: Sequence[Column] = ()) -> Table:
    """A row per grid point, without columns that would be empty or of equal values."""
    columns = [column for column in (*first, *_COLUMNS) if column.is_shown(points)]
    noise = noise_columns(points, lambda point: point.runs)
    return table_of(
        name,
        points,
        [*((column.heading, column.text) for column in columns), *noise],
        commands=[reproduce(point.first) for point in points],
    )
