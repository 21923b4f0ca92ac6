"""The page about what a training loses: what was done to it, what must be seen, and what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splade_bench.report.drawing import Target, drawing, picture
from splade_bench.report.formatting import MISSING, number
from splade_bench.report.markdown import escape
from splade_bench.report.page import Block, Page, Table, Text, bullets, table_of
from splade_bench.report.provenance import measured_on
from splade_bench.report.readers import group_by
from splade_bench.report.sweep_plots import colours_of
from splade_bench.results.reliability import ReliabilityResult
from splade_bench.units import as_mib

PAGE_NAME = "RELIABILITY"
# Campaign -> what it is about, and how many parts it has at least.
CAMPAIGNS: Mapping[str, tuple[str, int]] = {
    "disk": ("a call of the disk fails", 18),
    "kill": ("the process is killed", 2),
    "damage": ("a checkpoint is damaged", 1),
    "input": ("an input is malformed", 6),
    "stop": ("a signal arrives", 3),
    "soak": ("a long training", 4),
    "cost": ("the cost of checkpoints", 1),
    "data": ("a large training file", 1),
    "flags": ("each flag has a test", 1),
}
_INTRODUCTION = """\
# A training that loses nothing

`splade-bench report` writes this page from recorded results; do not edit it. Each row of the first table is a part of
a campaign of `benchmarks/test_reliability.py`: something is done to `splade-bench train`, as often as the row says, and
each time the outcome is compared with what is expected. Each campaign runs in a fresh process. Where it needs many
trainings, they are forks of this process, so that Python and torch are imported once: `train` runs whole, from its
flags to its exit code. *Weights* are those of `final_model` and the moments of AdamW in the last checkpoint, compared
bit by bit with a training that nothing was done to. Dropout and gradient accumulation are on.
"""


def reliability_page(results: Sequence[ReliabilityResult]) -> Page:
    """Each part of each campaign, the kills one by one, the memory of long trainings, and the flags."""
    results = sorted(results, key=lambda result: result.started_at or "")
    newest = {(result.campaign, result.fault): result for result in results}
    parts = [part for name in CAMPAIGNS for part in newest.values() if part.campaign == name]
    failures = [f"{part.campaign}: {escape(failure)}" for part in parts for failure in part.failures]
    blocks: list[Block] = [
        Text(_INTRODUCTION),
        *measured_on(parts),
        *bullets(_verdicts(parts)),
        campaigns_table(parts),
        *bullets(failures, heading="Failed:"),
        *figures_table(parts),
    ]
    soak = {part.fault: part.tries for part in parts if part.campaign == "soak" and part.tries}
    blocks += picture("soak", "resident memory after each optimizer step", _plot_soak, soak)
    for campaign, name in (("kill", "kills"), ("stop", "stops"), ("flags", "flags")):
        tries = [one for part in parts if part.campaign == campaign for one in part.tries]
        blocks += tries_table(name, tries)
    return Page(PAGE_NAME, blocks)


def _verdicts(parts: Sequence[ReliabilityResult]) -> list[str]:
    by_campaign = group_by(parts, lambda part: part.campaign)
    lines = []
    for campaign, (subject, parts_of_it) in CAMPAIGNS.items():
        own = by_campaign.get(campaign, [])
        failed, missing = sum(not part.passed for part in own), parts_of_it - len(own)
        outcomes = [f"{failed} of {len(own)} parts **FAILED**"] if failed else ["as expected"] if own else []
        outcomes += [f"{missing} of {parts_of_it} parts **not run**"] if missing > 0 else []
        lines.append(f"{subject}: {sum(part.tried for part in own):,} tried, {', '.join(outcomes)}")
    return lines


def campaigns_table(parts: Sequence[ReliabilityResult]) -> Table:
    """Each part, with its verdict."""
    return table_of(
        "campaigns",
        parts,
        [
            ("campaign", lambda part: part.campaign),
            ("fault", lambda part: part.fault),
            ("expected", lambda part: part.expected),
            ("tried", lambda part: f"{part.tried:,}"),
            ("seen", lambda part: ", ".join(f"{count:,} {seen}" for seen, count in part.seen.items()) or MISSING),
            ("verdict", _verdict),
        ],
    )


def _verdict(part: ReliabilityResult) -> str:
    if part.passed:
        return "as expected"
    return f"{len(part.failures):,} FAILED" if part.failures else "NOTHING JUDGED"


def figures_table(parts: Sequence[ReliabilityResult]) -> list[Block]:
    """What was measured."""
    rows = [
        [part.campaign, part.fault, name.replace("_", " "), number(value, _form(name))]
        for part in parts
        for name, value in part.figures.items()
    ]
    return [Table(name="figures", headings=["campaign", "fault", "figure", "value"], rows=rows)] if rows else []


def _form(name: str) -> str:
    if name.endswith("_share"):
        return ".2%"
    return ",.0f" if name.endswith("_bytes") else ",.3g"


def tries_table(name: str, tries: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Tries one by one; nothing for none."""
    if not tries:
        return []
    headings = list(dict.fromkeys(key for one in tries for key in one))
    rows = [[_text(one.get(heading)) for heading in headings] for one in tries]
    return [Table(name=name, headings=[heading.replace("_", " ") for heading in headings], rows=rows)]


def _text(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return MISSING if value is None else str(value)


def _plot_soak(soak: Mapping[str, Sequence[Mapping[str, Any]]], target: Target) -> None:
    """A line for each memory mode."""
    colours = colours_of(soak)
    with drawing(target) as (axes,):
        for mode, samples in soak.items():
            sizes = [as_mib(sample["rss_bytes"]) for sample in samples]
            axes.plot([sample["step"] for sample in samples], sizes, color=colours[mode], linewidth=1.2, label=mode)
        axes.set(xlabel="optimizer step", ylabel="resident memory, MiB", ylim=(0, None))
        axes.legend(ncols=2, loc="lower right")
