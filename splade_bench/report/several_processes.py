"""The page about several processes: a rank that is killed, and what two processes train beside one."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.report.markdown import escape
from splade_bench.report.page import Block, Page, Text, bullets
from splade_bench.report.provenance import measured_on
from splade_bench.report.reliability import campaigns_table, figures_table, tries_table
from splade_bench.results.reliability import ReliabilityResult

PAGE_NAME = "SEVERAL_PROCESSES"
CAMPAIGN = "several processes"
_INTRODUCTION = """\
# Several processes

`splade-bench report` writes this page from recorded results; do not edit it. The rows are those of
`benchmarks/test_several_processes.py`: ranks of one training on one machine, over gloo. How to start them and what they
send each other: [docs/several-processes.md](../docs/several-processes.md).

A rate is one of queries between the first optimizer step and the last one: the median of all runs, the lowest and the
highest. Bytes are those that one rank gives to the library: *exchanged* ones go to others, *reduced* ones are added up
over all ranks.
"""


def several_processes_page(results: Sequence[ReliabilityResult]) -> Page:
    """Each part, its figures, and the kills one by one."""
    newest = {result.fault: result for result in sorted(results, key=lambda result: result.started_at or "")}
    parts = [*newest.values()]
    blocks: list[Block] = [
        Text(_INTRODUCTION),
        *measured_on(parts),
        campaigns_table(parts),
        *bullets([escape(failure) for part in parts for failure in part.failures], heading="Failed:"),
        *figures_table(parts),
        *tries_table("kills", [one for part in parts for one in part.tries]),
    ]
    return Page(PAGE_NAME, blocks)
