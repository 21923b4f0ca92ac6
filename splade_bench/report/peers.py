"""The peer page: this package and others on the same weights and batches, and each limit beside its figure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from splade_bench.report.bounds import BOUNDS, MODE, Bound, contender, gemm_share, last_loss
from splade_bench.report.cells import GridPoint
from splade_bench.report.formatting import number
from splade_bench.report.markdown import code
from splade_bench.report.page import Block, Page, Table, Text, table_of
from splade_bench.report.provenance import failures, measured_on
from splade_bench.report.readers import group_by, in_mib, recorded
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import added_bytes, peak_bytes, step_time_s
from splade_bench.results.records import CellResult

PAGE_NAME = "PEERS"
_JUDGED_DROPOUT = 0.0
_INTRODUCTION = """\
# Peers: the same weights, batches, loss and optimizer

`splade-bench report` writes this page from recorded results; do not edit it. Each run is a fresh process. It loads the
same weights, takes one optimizer step on a few tokens, which creates AdamW's moments, and then the optimizer steps that
are timed. All contenders have the same loss (in-batch softmax with one hard negative, FLOPS on queries and all
documents), clipping, fused AdamW and number of threads. Dropout on hidden states is 0.1 everywhere; each heading names
the dropout on attention. Before the timed runs, the gradient of each contender is compared with that of the plain
definition in float64. The order of the contenders alternates from round to round. The *size* is the number of texts in
a mini-batch or of tokens in a chunk: a scan ran each size once, and the best one ran all rounds. The best is the one
with the smallest peak among the fastest, within 5 %.

- `article-trainer`: the algorithm of the source article, which pads to max_length.
- `SpladeLoss`, `SpladePooling-chunked`, `CachedSpladeLoss`: sentence-transformers, in a loop without its own trainer.
- Real lengths: queries of 4 to 20 tokens, documents log-normal around 75 tokens.
"""
_PROMISES = """\
## Limits

The limits apply to runs without attention dropout. *Least possible* is the best that a cached step in float32 can reach
on this machine. For a time, it is that of the matrix products at the machine's full GEMM rate. For a peak, it is the
sum of weights, gradients, moments and runtime memory. A limit below it cannot be kept on this machine.
"""


def peers_page(results: Sequence[CellResult]) -> Page:
    """The limits with their figures, then the contenders of each workload."""
    results = newest_comparable(results, key=_group, run=lambda result: result)
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results), Text(_PROMISES), _promises(results)]
    for (workload, dropout), chosen in group_by(results, _group).items():
        blocks += [
            Text(f"## {code(workload)}, attention dropout {dropout:g}"),
            _table(chosen, name=f"{workload}-dropout-{dropout:g}"),
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
            ("mode", lambda bound: bound.mode),
            ("figure", lambda bound: bound.title),
            ("limit", lambda bound: bound.limit_text),
            ("least possible", lambda bound: number(bound.least(judged))),
            *((f"attention dropout {dropout:g}", partial(outcome, dropout)) for dropout in sorted(by_dropout)),
        ],
    )


def _table(results: Sequence[CellResult], *, name: str) -> Table:
    """A row per batch size, contender and size; this package first."""
    groups = group_by(results, lambda result: (result.batch_size, contender(result), result.trainer_size))
    keys = sorted(groups, key=lambda key: (key[0], key[1] != MODE, key[1], key[2] or 0))
    return table_of(
        name,
        [GridPoint(groups[key]) for key in keys],
        [
            ("batch", lambda point: str(point.first.batch_size)),
            ("trainer", lambda point: contender(point.first)),
            ("size", lambda point: number(point.first.trainer_size, "d")),
            ("rounds", lambda point: str(len(point.ok))),
            ("status", lambda point: ", ".join(dict.fromkeys(run.status for run in point.runs))),
            ("s per optimizer step", lambda point: point.text(step_time_s, ".2f")),
            ("peak memory, MiB", lambda point: point.text(in_mib(peak_bytes), ".0f")),
            ("added memory, MiB", lambda point: point.text(in_mib(added_bytes), ".0f")),
            ("last loss", lambda point: point.text(last_loss, ".4f")),
            ("share of GEMM rate", lambda point: point.text(gemm_share, ".2f")),
            ("active share", lambda point: point.text(recorded("active_share"), ".3f")),
        ],
    )


def _group(result: CellResult) -> tuple[str, float]:
    return result.workload, result.attention_dropout
