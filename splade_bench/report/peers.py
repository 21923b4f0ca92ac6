"""The peer page: this package and others on the same weights and batches, and each limit beside its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from splade_bench.fields import option
from splade_bench.memory_modes import memory_mode
from splade_bench.report.bounds import (
    BOUNDS,
    FIT,
    MODE,
    Bound,
    contender,
    direct_gemm_share,
    gemm_share,
    last_loss,
)
from splade_bench.report.cells import GridPoint
from splade_bench.report.drawing import picture
from splade_bench.report.formatting import number
from splade_bench.report.markdown import code, escape
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Block, Columns, Page, Table, Text, bullets, table_of
from splade_bench.report.provenance import failures, measured_on
from splade_bench.report.readers import group_by, in_mib, recorded
from splade_bench.report.sweep_plots import plot_frontiers
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import added_bytes, peak_bytes, step_time_s
from splade_bench.results.records import CellResult
from splade_bench.units import format_bytes

PAGE_NAME = "PEERS"
_JUDGED_DROPOUT = 0.0
_INTRODUCTION = """\
# Peers: the same weights, batches, loss and optimizer

`splade-bench report` writes this page from recorded results; do not edit it. Each run is a fresh process. It loads the
same weights, takes one optimizer step on a few tokens, which creates AdamW's moments, one on a whole batch, which takes
memory from the system (runs of earlier versions time it), and then the optimizer steps that are timed. All contenders
have the same loss (in-batch softmax with one hard negative, FLOPS on queries and all documents), clipping, fused AdamW
and number of threads. Dropout on hidden states is 0.1 everywhere; each heading names the dropout on attention. Before
the timed runs, the gradient of each contender is compared with that of the plain definition in float64. The order of
the contenders alternates from round to round. The *size* is the number of texts in a mini-batch or of tokens in a
chunk: a scan ran each size once, and the best one ran all rounds. The best is the one with the smallest peak among the
fastest, within 5 %.

- `fit`: this package with the settings that `splade-bench fit` chooses for a budget. Its budgets are the peaks that the
  peers had in the scan, rounded down to whole MiB, and some between. It chooses in a process of its own, once for all
  rounds, by predicted times. A budget that is no peer's peak runs once.
- `article-trainer`: the algorithm of the source article, which pads to max_length.
- `SpladeLoss`, `SpladePooling-chunked`, `CachedSpladeLoss`: sentence-transformers, in a loop without its own trainer.
- Real lengths: queries of 4 to 20 tokens, documents log-normal around 75 tokens.
"""
_PROMISES = """\
## Limits

The limits apply to runs without attention dropout. *Least possible* is the best that a cached step in float32 can reach
on this machine. For a time, it is that of the matrix products at the machine's full GEMM rate. For a peak, it is the
sum of weights, gradients, moments and runtime memory. A limit below it cannot be kept on this machine. With enough
memory `fit` keeps the graphs of the whole batch. Such a *direct step* has fewer products than a cached one: it computes
nothing twice. The least possible time of `fit` is that of a direct step.
"""


def peers_page(results: Sequence[CellResult]) -> Page:
    """The limits with their figures, then the contenders of each workload."""
    results = newest_comparable(results, key=_group, run=lambda result: result)
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results), Text(_PROMISES), _promises(results)]
    for (workload, dropout), chosen in group_by(results, _group).items():
        blocks += [
            Text(f"## {code(workload)}, attention dropout {dropout:g}"),
            _table(chosen, name=f"{workload}-dropout-{dropout:g}"),
            *_choices(chosen),
            *_frontiers(chosen),
            *failures(chosen),
        ]
    return Page(PAGE_NAME, blocks)


def _promises(results: Sequence[CellResult]) -> Table:
    by_dropout = group_by(results, lambda result: result.attention_dropout)
    judged = by_dropout.get(_JUDGED_DROPOUT, [])

    def outcome(dropout: float, bound: Bound) -> str:
        measured = bound.measured(by_dropout[dropout])
        if measured is None:
            return "not measured"
        verdict = ("met" if bound.holds(measured) else "MISSED") if dropout == _JUDGED_DROPOUT else ""
        return f"{measured:.2f} {verdict}".rstrip()

    return table_of(
        "promises",
        BOUNDS,
        [
            ("workload", lambda bound: f"{bound.workload}, batch {bound.batch_size}"),
            ("mode", lambda bound: bound.who),
            ("figure", lambda bound: bound.title),
            ("limit", lambda bound: bound.limit_text),
            ("least possible", lambda bound: number(bound.least(judged))),
            *((f"attention dropout {dropout:g}", partial(outcome, dropout)) for dropout in sorted(by_dropout)),
        ],
    )


def _table(results: Sequence[CellResult], *, name: str) -> Table:
    """A row per batch size, contender and size or budget; this package first."""
    points = [GridPoint(runs) for runs in group_by(results, _row_key).values()]
    points.sort(key=lambda point: (point.first.batch_size, *_place(point.first)))
    budgets: Columns[GridPoint] = [
        ("budget, MiB", lambda point: number(in_mib(recorded("memory_budget_bytes"))(point.first), ".0f"))
    ]
    shares: Columns[GridPoint] = [
        ("share of GEMM rate, of a direct step", lambda point: point.text(direct_gemm_share, ".2f"))
    ]
    has_fit = any(contender(result) == FIT for result in results)
    return table_of(
        name,
        points,
        [
            ("batch", lambda point: str(point.first.batch_size)),
            ("trainer", lambda point: contender(point.first)),
            ("size", lambda point: number(point.first.trainer_size, "d")),
            *(budgets if has_fit else ()),
            ("rounds", lambda point: str(len(point.ok))),
            ("status", lambda point: ", ".join(dict.fromkeys(run.status for run in point.runs))),
            ("s per optimizer step", lambda point: point.text(step_time_s, ".2f")),
            ("peak memory, MiB", lambda point: point.text(in_mib(peak_bytes), ".0f")),
            ("added memory, MiB", lambda point: point.text(in_mib(added_bytes), ".0f")),
            ("last loss", lambda point: point.text(last_loss, ".4f")),
            ("share of GEMM rate", lambda point: point.text(gemm_share, ".2f")),
            *(shares if has_fit else ()),
            ("active share", lambda point: point.text(recorded("active_share"), ".3f")),
            *noise_columns(points, lambda point: point.runs),
        ],
    )


def _choices(results: Sequence[CellResult]) -> list[Block]:
    """What fit chose for each budget, and its plan."""
    fitted = [result for result in results if result.memory_settings]
    fitted.sort(key=lambda result: (result.batch_size, result.memory_budget_bytes or 0))
    lines = [
        f"batch {result.batch_size}, {format_bytes(result.memory_budget_bytes or 0)}: {escape(_changes(result))}, "
        f"planned {format_bytes(result.planned_peak_rss_bytes or 0)}"
        for result in fitted
    ]
    return bullets(list(dict.fromkeys(lines)), heading="What `fit` chose for each budget:")


def _changes(result: CellResult) -> str:
    """The flags of the settings that differ from those of the cell's mode."""
    usual, flags = asdict(memory_mode(result.memory_mode)), []
    for name, value in (result.memory_settings or {}).items():
        if value != usual.get(name):
            flags.append(f"--no-{option(name)[2:]}" if value is False else f"{option(name)} {value}")
    return " ".join(flag.removesuffix(" True") for flag in flags) or result.memory_mode


def _frontiers(results: Sequence[CellResult]) -> list[Block]:
    """For each batch size that fit ran, memory against time: a curve for each contender over its sizes or budgets."""
    blocks: list[Block] = []
    for batch_size, runs in group_by(results, lambda result: result.batch_size).items():
        curves: dict[str, list[tuple[float, float]]] = {}
        for chosen in group_by(sorted(runs, key=_place), _row_key).values():
            point = GridPoint(chosen)
            time_s, size_bytes = point.median(step_time_s), point.median(peak_bytes)
            if time_s is not None and size_bytes is not None:
                curves.setdefault(contender(point.first), []).append((time_s, size_bytes))
        if FIT in curves:
            first = runs[0]
            name = f"frontiers-{first.workload}-b{batch_size}-dropout-{first.attention_dropout:g}"
            caption = f"Memory against time at batch {batch_size}: sizes of the peers, budgets of fit"
            blocks += picture(name, caption, plot_frontiers, curves)
    return blocks


def _row_key(result: CellResult) -> tuple[object, ...]:
    return result.batch_size, contender(result), result.trainer_size, result.memory_budget_bytes


def _place(result: CellResult) -> tuple[object, ...]:
    """This package first: its mode, then fit by budget."""
    name = contender(result)
    return name != MODE, name != FIT, result.memory_budget_bytes or 0, name, result.trainer_size or 0


def _group(result: CellResult) -> tuple[str, float]:
    return result.workload, result.attention_dropout
