"""The peer page: this package and others on the same weights and batches, each promise beside its figure."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.report.bounds import BOUNDS, GIB, MODE, Bound, contender, gemm_share
from splade_bench.report.markdown import code
from splade_bench.report.page import Block, Page, Table, Text, bullets
from splade_bench.report.tables import (
    MISSING,
    above_baseline_bytes,
    conditions,
    in_mib,
    newest_alike,
    number,
    over_runs,
    peak_rss_bytes,
    problems,
    recorded,
    step_time_s,
)
from splade_bench.results.records import CellResult

PAGE_NAME = "PEERS"
_JUDGED_DROPOUT = 0.0
_INTRODUCTION = """\
# Peers: the same weights, batches, loss and optimizer

Written by `splade-bench report` from recorded results; do not edit. Each run is a fresh process that loads the same
weights, takes one optimizer step on a few tokens, so that AdamW's moments are there, and then the steps that are timed.
Loss (in-batch softmax with one hard negative, FLOPS on queries and all documents), clipping, fused AdamW, threads and
the model's dropout are the same for all; dropout on hidden states is 0.1 everywhere, dropout on attention is named
with each table. Before anything is timed, each trainer's gradient is held against the plain definition's in float64.
Rounds alternate their order. A size (texts of a mini-batch, tokens of a chunk) that was run once is a size of the scan,
and the one with all rounds was the best in it: the fastest, and of those within 5 % of it the smallest peak.

- `article`: the source article's algorithm, always padded to the longest length.
- `SpladeLoss`, `SpladePooling-chunked`, `CachedSpladeLoss`: sentence-transformers, in a loop without its trainer's own
  work.
- Texts of real lengths: queries of 4 to 20 tokens, documents log-normal around 75.
"""
_PROMISES = """\
## Promises

The limits are for runs without attention dropout. *Least possible* is the figure of a cached step in float32 that could
not be better on this machine: for a time, its products at the machine's full GEMM rate and nothing else; for a peak,
weights, gradients, moments and runtime and nothing else. A limit below it cannot be kept here.
"""


def peers_page(results: Sequence[CellResult]) -> Page:
    """Promises with their figures, then each workload's contenders."""
    results = newest_alike(results, key=_group, run=lambda result: result)
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions(results), Text(_PROMISES), _promises(results)]
    for key in dict.fromkeys(map(_group, results)):
        workload, dropout = key
        chosen = [result for result in results if _group(result) == key]
        blocks += [
            Text(f"## {code(workload)}, attention dropout {dropout:g}"),
            _table(chosen, name=f"{workload}-dropout-{dropout:g}"),
            *bullets(problems(chosen, lambda result: result.cell_id)),
        ]
    return Page(PAGE_NAME, blocks)


def _promises(results: Sequence[CellResult]) -> Table:
    rows = []
    dropouts = sorted({result.attention_dropout for result in results})
    for bound in BOUNDS:
        least = bound.least([result for result in results if result.attention_dropout == _JUDGED_DROPOUT])
        rows.append(
            [
                f"{bound.workload}, batch {bound.batch_size}",
                bound.mode,
                _what(bound),
                _limit(bound),
                MISSING if least is None else _value(bound, least),
            ]
        )
        for dropout in dropouts:
            measured = bound.measured([result for result in results if result.attention_dropout == dropout])
            rows[-1].append(_verdict(bound, measured, judged=dropout == _JUDGED_DROPOUT))
    headings = ["workload", "mode", "figure", "limit", "least possible"]
    headings += [f"attention dropout {dropout:g}" for dropout in dropouts]
    return Table(name="promises", headings=headings, rows=rows)


def _verdict(bound: Bound, measured: float | None, *, judged: bool) -> str:
    """The limits are for runs without attention dropout; the figures with it stand beside them."""
    if measured is None:
        return "not measured"
    text = _value(bound, measured)
    return text if not judged else f"{text} {'met' if bound.holds(measured) else 'MISSED'}"


def _what(bound: Bound) -> str:
    if bound.peer is None:
        return bound.what
    at_batch = f" at batch {bound.peer_batch_size}" if bound.peer_batch_size else ""
    return f"{bound.what} ÷ {bound.peer}{at_batch}"


def _limit(bound: Bound) -> str:
    return f"{'≥' if bound.at_least else '≤'} {_value(bound, bound.limit)}"


def _value(bound: Bound, value: float) -> str:
    return f"{value / GIB:.2f}" if bound.what.endswith("GiB") else f"{value:.2f}"


def _table(results: Sequence[CellResult], *, name: str) -> Table:
    rows = []
    keys = dict.fromkeys((result.batch_size, contender(result), result.trainer_size) for result in results)
    for batch_size, trainer, size in sorted(keys, key=lambda key: (key[0], key[1] != MODE, key[1], key[2] or 0)):
        chosen = [
            result
            for result in results
            if (result.batch_size, contender(result), result.trainer_size) == (batch_size, trainer, size)
        ]
        ok = [result for result in chosen if result.status == "ok"]
        rows.append(
            [
                str(batch_size),
                trainer,
                number(size, "d"),
                str(len(ok)),
                ", ".join(dict.fromkeys(result.status for result in chosen)),
                over_runs(ok, step_time_s, ".2f"),
                over_runs(ok, in_mib(peak_rss_bytes), ".0f"),
                over_runs(ok, in_mib(above_baseline_bytes), ".0f"),
                over_runs(ok, lambda result: result.losses[-1] if result.losses else None, ".4f"),
                over_runs(ok, gemm_share, ".2f"),
                over_runs(ok, recorded("active_share"), ".3f"),
            ]
        )
    headings = [
        "batch",
        "trainer",
        "size",
        "rounds",
        "status",
        "s per optimizer step",
        "peak RSS, MiB",
        "above baseline, MiB",
        "last loss",
        "share of GEMM rate",
        "active share",
    ]
    return Table(name=name, headings=headings, rows=rows)


def _group(result: CellResult) -> tuple[str, float]:
    return result.workload, result.attention_dropout
