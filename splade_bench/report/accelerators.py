"""The accelerators page: what was measured on a GPU, beside its limits, and what can be proved without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splade_bench.grid.cell import OWN_TRAINER
from splade_bench.report.cells import GridPoint
from splade_bench.report.formatting import MISSING, mib
from splade_bench.report.page import Block, Page, Table, Text, table_of
from splade_bench.report.provenance import counts, failures, measured_on
from splade_bench.report.readers import group_by, in_mib, median_of, over_runs, recorded
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.records import CellResult

PAGE_NAME = "ACCELERATORS"
_INTRODUCTION = """\
# Accelerators

`splade-bench report` writes this page from recorded results; do not edit it. They are those of
`pytest benchmarks --device cuda --profile accelerator`, which takes about ten minutes on an NVIDIA H100: each part is a
fresh process, and most of the time goes to starting them. On a CPU, where CI runs them, the parts have small sizes:
their times say nothing about an accelerator and decide no limit. Shapes are texts x length x hidden size x vocabulary.
*Ratio* is a time divided by that of the bare matrix product of hidden states and vocabulary.

On CUDA the default head is *--head triton* where Triton can run, else the tiles called *default* and the way *bags*. A
profiler slows the host down, so the share without a kernel is an upper bound.
"""
# Part -> its heading.
PARTS: Mapping[str, str] = {
    "head errors": "The head: relative error of vectors and gradients against float64",
    "step errors": "The step: relative error of the gradients against float64",
    "operators": "Operators of a forward and backward pass, on the paths of CUDA",
    "head forward": "The head alone: forward pass with winners, by the size of tiles",
    "head backward": "The head alone: backward pass, by the way of summing",
    "largest batches": "Most queries of a batch within 8 GiB",
    "gaps": "Where the device waits for its host, in an optimizer step",
}
# A row of the head in Triton's kernels, which is the default where they can run.
_TRITON = "--head triton"
_SPARTON = "320 x 512 x 768 x 30522"


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure, and the value that it must not pass."""

    title: str
    limit: float
    form: str
    figure: Callable[[_Measured], float | None]
    at_least: bool = False


class _Measured:
    """The results that decide limits: those with full sizes on CUDA. The count of operators is the same everywhere."""

    def __init__(self, parts: Mapping[str, AcceleratorResult], cells: Sequence[CellResult]) -> None:
        self._parts = parts
        self._cells = [cell for cell in cells if cell.device == "cuda" and cell.status == "ok"]

    def rows(self, part: str, *, anywhere: bool = False, **wanted: Any) -> list[dict[str, Any]]:
        result = self._parts.get(part)
        if result is None or not (anywhere or (result.device == "cuda" and not result.shrunk)):
            return []
        return [row for row in result.rows if all(row.get(name) == value for name, value in wanted.items())]

    def forward(self, name: str) -> float | None:
        """A figure of the head's forward pass at Sparton's shape, as the default head computes it."""
        tiled = self.rows("head forward", shape=_SPARTON, tile="default")
        return _first(self.rows("head forward", shape=_SPARTON, tile=_TRITON) or tiled, name)

    def forward_and_backward_s(self) -> float | None:
        rows = self.rows("head backward", shape=_SPARTON, active_share=0.01)
        fused = [row for row in rows if row["way"] == _TRITON]
        backward_s = _first(fused or [row for row in rows if row["way"] == "bags"], "time_s")
        forward_s = self.forward("time_s")
        return None if backward_s is None or forward_s is None else forward_s + backward_s

    def over_splade_loss(self, name: str) -> float | None:
        """A figure of this package's step divided by that of SpladeLoss, at batch 32."""
        own, peer = (median_of(self._of(trainer), recorded(name)) for trainer in (OWN_TRAINER, "SpladeLoss"))
        return own / peer if own and peer else None

    def largest_batch_ratio(self) -> float | None:
        own, peer = (
            _first(self.rows("largest batches", trainer=trainer), "queries") for trainer in (OWN_TRAINER, "SpladeLoss")
        )
        return own / peer if own and peer else None

    def plan_error(self) -> float | None:
        """The largest deviation of a measured peak from its plan."""
        ratios = [
            cell.device_peak_allocated_bytes / cell.planned_live_peak_bytes - 1
            for cell in self._cells
            if cell.device_peak_allocated_bytes and cell.planned_live_peak_bytes
        ]
        return max(map(abs, ratios), default=None)

    def most_operators(self) -> float | None:
        rows = self.rows("operators", anywhere=True)
        return max((row["ratio"] for row in rows), default=None)

    def _of(self, trainer: str) -> list[CellResult]:
        return [
            cell
            for cell in self._cells
            if cell.trainer == trainer and cell.batch_size == 32 and cell.memory_budget_bytes is None
        ]


LIMITS: Sequence[Limit] = (
    Limit("operators of a step ÷ the plain model's", 1.3, ".2f", _Measured.most_operators),
    Limit(f"head forward ÷ the bare product, {_SPARTON}", 1.15, ".2f", lambda found: found.forward("ratio")),
    Limit(f"head forward and backward, {_SPARTON}, s", 0.030, ".4f", _Measured.forward_and_backward_s),
    Limit("step ÷ SpladeLoss, 32 x 256 x 3", 0.6, ".2f", lambda found: found.over_splade_loss("step_time_s")),
    Limit(
        "peak allocated ÷ SpladeLoss, 32 x 256 x 3",
        0.2,
        ".2f",
        lambda found: found.over_splade_loss("device_peak_allocated_bytes"),
    ),
    Limit("largest batch at 8 GiB ÷ SpladeLoss's", 12, ".1f", _Measured.largest_batch_ratio, at_least=True),
    Limit("peak allocated against its plan", 0.03, ".1%", _Measured.plan_error),
    Limit("share of the step without a kernel", 0.1, ".1%", lambda found: _first(found.rows("gaps"), "gap_share")),
)


def accelerators_page(results: Sequence[AcceleratorResult | CellResult]) -> Page:
    """The limits, then each part, then the full steps."""
    results = sorted(results, key=lambda result: result.started_at or "")
    cells = [*{result.cell_id: result for result in results if isinstance(result, CellResult)}.values()]  # the newest
    parts = [result for result in results if isinstance(result, AcceleratorResult)]
    newest = {result.part: result for result in sorted(parts, key=lambda part: not part.shrunk)}  # small sizes if alone
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results), _limits(_Measured(newest, cells))]
    for part, heading in PARTS.items():
        blocks.append(Text(f"## {heading}"))
        blocks.append(_rows_table(part, newest[part]) if part in newest else Text("Not measured."))
    blocks.append(Text("## The full step: BERT-base in bf16, texts of 256 tokens, one negative"))
    blocks += [_steps_table(cells), *failures(cells)] if cells else [Text("Not measured.")]
    return Page(PAGE_NAME, blocks)


def _limits(measured: _Measured) -> Table:
    def outcome(limit: Limit) -> str:
        value = limit.figure(measured)
        if value is None:
            return "not measured"
        met = value >= limit.limit if limit.at_least else value <= limit.limit
        return f"{value:{limit.form}} {'met' if met else 'MISSED'}"

    columns: list[tuple[str, Callable[[Limit], str]]] = [
        ("figure", lambda limit: limit.title),
        ("limit", lambda limit: f"{'≥' if limit.at_least else '≤'} {limit.limit:{limit.form}}"),
        ("measured", outcome),
    ]
    return table_of("limits", LIMITS, columns)


def _rows_table(part: str, result: AcceleratorResult) -> Table:
    """One column for each figure of the part's rows, with its unit."""
    names = [*dict.fromkeys(name for row in result.rows for name in row)]
    where = f"{result.device}, small sizes" if result.shrunk else result.device
    return Table(
        name=part.replace(" ", "_"),
        headings=["device", *(_heading(name) for name in names)],
        rows=[[where, *(_shown(name, row.get(name)) for name in names)] for row in result.rows],
    )


def _heading(name: str) -> str:
    for ending, unit in (("_s", ", ms"), ("_bytes", ", MiB")):
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " ") + unit
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return MISSING
    if name.endswith("_s"):
        return f"{1000 * value:.3g}"
    if name.endswith("_bytes"):
        return mib(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _steps_table(cells: Sequence[CellResult]) -> Table:
    points = [GridPoint(runs) for runs in group_by(cells, lambda cell: cell.cell_id).values()]
    return table_of(
        "steps",
        points,
        [
            ("device", lambda point: point.first.device),
            ("workload", lambda point: point.first.workload),
            ("batch", lambda point: str(point.first.batch_size)),
            ("trainer", lambda point: point.first.trainer),
            ("budget, MiB", lambda point: mib(point.first.memory_budget_bytes)),
            ("status", lambda point: counts(run.status for run in point.runs)),
            ("s per optimizer step", lambda point: over_runs(point.runs, recorded("step_time_s"), ".3f")),
            ("peak allocated, MiB", lambda point: _peak(point.runs, "device_peak_allocated_bytes")),
            ("planned, MiB", lambda point: _peak(point.runs, "planned_live_peak_bytes")),
            ("peak reserved, MiB", lambda point: _peak(point.runs, "device_peak_reserved_bytes")),
            ("planned, reserved, MiB", lambda point: _peak(point.runs, "planned_peak_rss_bytes")),
        ],
    )


def _peak(runs: Sequence[CellResult], name: str) -> str:
    return over_runs(runs, in_mib(recorded(name)), ".0f")


def _first(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    return next((row[name] for row in rows if row.get(name) is not None), None)
