"""The cell table: a row a grid point, over its seeds and rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from splade_bench.report.modes import modes_of
from splade_bench.report.page import Table
from splade_bench.report.tables import (
    MISSING,
    Figure,
    above_baseline_bytes,
    figures,
    in_mib,
    metric,
    mrr_at_10,
    number,
    over_runs,
    peak_rss_bytes,
    queries_per_s,
    recorded,
    statuses,
    surroundings,
    wall_time_s,
)
from splade_bench.results.records import CellResult
from splade_bench.results.reproduce import reproduce


@dataclass(frozen=True, slots=True)
class GridPoint:
    """The runs of one cell over its seeds and rounds."""

    runs: Sequence[CellResult]

    @property
    def first(self) -> CellResult:
        return self.runs[0]

    @property
    def around(self) -> tuple[object, ...]:
        """Machine, source tree and whatever else is the same in its runs."""
        return surroundings(self.first)

    @property
    def ok(self) -> list[CellResult]:
        return [run for run in self.runs if run.status == "ok"]

    def median(self, figure: Figure) -> float | None:
        """Of the runs that ended well."""
        values = figures(self.ok, figure)
        return statistics.median(values) if values else None


def grid_points(results: Sequence[CellResult]) -> list[GridPoint]:
    """By the name of the cell and what surrounds it; small batches first, modes side by side."""
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.cell_id, *surroundings(result)), []).append(result)
    place = {mode: number for number, mode in enumerate(modes_of(results))}
    points = [GridPoint(runs) for runs in groups.values()]
    return sorted(
        points,
        key=lambda point: (
            point.first.device,
            point.first.batch_size,
            point.first.gradient_accumulation_steps,
            place[point.first.memory_mode],
        ),
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how a grid point fills it."""

    heading: str
    text: Callable[[GridPoint], str]
    shown: Literal["always", "known", "varies"] = "always"
    """Whether it is there when no grid point has anything for it, or all have the same."""

    def is_shown(self, points: Sequence[GridPoint]) -> bool:
        """Whether it says something about these grid points."""
        texts = {self.text(point) for point in points}
        return {"always": True, "known": bool(texts - {MISSING}), "varies": len(texts) > 1}[self.shown]


def _figure(heading: str, figure: Figure, form: str, *, shown: Literal["always", "known"] = "always") -> Column:
    return Column(heading, lambda point: over_runs(point.ok, figure, form), shown)


def _mrr_change(point: GridPoint) -> str:
    before = over_runs(point.ok[:1], lambda result: (result.metrics_before or {}).get("mrr@10"), ".3f")
    return f"{before} → {over_runs(point.ok, mrr_at_10, '.3f')}"


_COLUMNS = (
    Column("machine", lambda point: str(point.first.machine.get("processor")), "varies"),
    Column("source tree", lambda point: str(point.first.source_tree)[:8], "varies"),
    Column("device", lambda point: point.first.device),
    Column("batch", lambda point: str(point.first.batch_size)),
    Column("accumulation", lambda point: str(point.first.gradient_accumulation_steps)),
    Column("mode", lambda point: point.first.memory_mode),
    Column("max steps", lambda point: number(point.first.max_steps, "d"), shown="known"),
    Column("limit, MiB", lambda point: number(in_mib(recorded("memory_limit_bytes"))(point.first), ".0f"), "known"),
    Column("runs", lambda point: statuses(point.runs)),
    _figure("optimizer steps", recorded("optimizer_steps"), ".0f"),
    _figure("time, s", wall_time_s, ".1f"),
    _figure("queries/s", queries_per_s, ".1f"),
    _figure("peak RSS, MiB", in_mib(peak_rss_bytes), ".0f"),
    _figure("above baseline, MiB", in_mib(above_baseline_bytes), ".0f"),
    _figure("pinned, MiB", in_mib(recorded("pinned_peak_rss_bytes")), ".0f", shown="known"),
    _figure("planned, MiB", in_mib(recorded("planned_peak_rss_bytes")), ".0f", shown="known"),
    _figure("live, MiB", in_mib(recorded("live_peak_bytes")), ".0f", shown="known"),
    _figure("memray, MiB", in_mib(recorded("memray_peak_bytes")), ".0f", shown="known"),
    _figure("allocated, MiB", in_mib(recorded("device_peak_allocated_bytes")), ".0f", shown="known"),
    _figure("reserved, MiB", in_mib(recorded("device_peak_reserved_bytes")), ".0f", shown="known"),
    _figure("final loss", recorded("final_loss"), ".3f"),
    _figure("validation loss", recorded("validation_loss"), ".3f"),
    Column("MRR@10", _mrr_change),
    _figure("active dims, query", metric("query_active_dims"), ".0f", shown="known"),
    _figure("active dims, document", metric("document_active_dims"), ".0f", shown="known"),
)


def cell_table(points: Sequence[GridPoint], *, name: str, first: Sequence[Column] = ()) -> Table:
    """One row a grid point; columns about which nothing is known are left out."""
    columns = [column for column in (*first, *_COLUMNS) if column.is_shown(points)]
    return Table(
        name=name,
        headings=[column.heading for column in columns],
        rows=[[column.text(point) for column in columns] for point in points],
        commands=[reproduce(point.first) for point in points],
    )
