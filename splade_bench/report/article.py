"""The page about the article's run that ran out of memory: what the planner says of it, and what would have fitted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from splade_bench.grid.cell import OWN_TRAINER
from splade_bench.report.markdown import escape
from splade_bench.report.page import Block, Page, Table, Text
from splade_bench.report.tables import MISSING, conditions, figures, gib, newest_alike, number, step_time_s
from splade_bench.results.records import CellResult, PlanResult
from splade_bench.units import as_gib, as_mib

PAGE_NAME = "ARTICLE"
# What the article reports of its run, and how near a plan has to be to explain it.
REPORTED_RESERVED_GIB = 26.77
REPORTED_ALLOCATION_MIB = 476.91
_NEAR_GIB = 0.1
_NEAR_MIB = 0.01
_MEASURED_WORKLOAD = "base-512"
_DROPOUT = 0.1
_INTRODUCTION = f"""\
# The article's failure

Written by `splade-bench report` from recorded results; do not edit. The article's run, BERT-base at 8 x 512 tokens of a
query, a positive and a negative on an M4, ended with `MPS backend out of memory`: {REPORTED_RESERVED_GIB} GB allocated
of 27.20 allowed, {REPORTED_ALLOCATION_MIB} MB asked for, which is one logits tensor of 8 x 512 x 30,522 floats. Here
its algorithm and this package's modes are planned for that device: the same steps on tensors without content, through
a model of MPS's allocator that follows torch's sources and was not held against a Mac. Hinge loss, L1 norms and dropout
of 0.1 are the article's, but for the modes that leave out attention dropout. *Reserved* is what the allocator has
taken, *failing* the first allocation for which the budget has no room. Times are those of `base-512` in PEERS, on the
machine named there: what a Mac's GPU needs was not measured.
"""


def article_page(plans: Sequence[PlanResult], cells: Sequence[CellResult]) -> Page:
    """Each way to train the article's batch; ``cells`` may hold times of the same batch on a CPU."""
    rows = [[*_row(plan), _step_time(plan, cells)] for plan in plans]
    headings = [
        *("what trains", "live, GiB", "reserved, GiB", "in the budget", "failing, MiB", "reserved then, GiB"),
        "s per step, CPU",
    ]
    table = Table(name="article", headings=headings, rows=rows)
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions(plans), table, Text(_verdict(plans))]
    return Page(PAGE_NAME, blocks)


def explains(plan: PlanResult) -> bool:
    """Whether a plan fails as the article's run did: for the same allocation, with as much reserved."""
    if plan.failed_allocation_bytes is None or plan.reserved_bytes is None:
        return False
    return (
        abs(as_mib(plan.failed_allocation_bytes) - REPORTED_ALLOCATION_MIB) < _NEAR_MIB
        and abs(as_gib(plan.reserved_bytes) - REPORTED_RESERVED_GIB) < _NEAR_GIB
    )


def _verdict(plans: Sequence[PlanResult]) -> str:
    explaining = [plan for plan in plans if explains(plan)]
    fitting = [plan for plan in plans if plan.failed_allocation_bytes is None]
    lines = [
        f"**{escape(plan.name)}** fails as the article's run did: {as_mib(plan.failed_allocation_bytes or 0):.2f} MiB "
        f"asked for in {escape(plan.failed_phase or '?')}, with {gib(plan.reserved_bytes)} GiB reserved; the article "
        f"reports {REPORTED_RESERVED_GIB}. The article does not say what its mask is made of, so this explains its "
        "figures without proving it."
        for plan in explaining
    ]
    if not explaining:
        lines.append("None of these fails with the article's figures: the difference is unexplained.")
    if fitting:
        least = min(fitting, key=lambda plan: plan.peak_bytes)
        lines.append(
            f"{len(fitting)} of {len(plans)} fit; the least is {escape(least.name)} with {gib(least.peak_bytes)} GiB."
        )
    return "\n\n".join(lines) + "\n"


def _row(plan: PlanResult) -> list[str]:
    failed_bytes = plan.failed_allocation_bytes
    return [
        plan.name,
        gib(plan.live_peak_bytes),
        gib(plan.peak_bytes),
        "fits" if failed_bytes is None else "does not fit",
        number(None if failed_bytes is None else as_mib(failed_bytes)),
        gib(plan.reserved_bytes),
    ]


def _step_time(plan: PlanResult, cells: Sequence[CellResult]) -> str:
    runs = [
        cell
        for cell in cells
        if (cell.workload, cell.trainer, cell.status) == (_MEASURED_WORKLOAD, OWN_TRAINER, "ok")
        and (cell.memory_mode, cell.batch_size) == (plan.name, plan.batch_size)
        and cell.attention_dropout == _DROPOUT
    ]
    times_s = figures(newest_alike(runs, key=lambda run: None, run=lambda run: run), step_time_s)
    return f"{statistics.median(times_s):.1f}" if times_s else MISSING
