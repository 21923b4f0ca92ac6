"""The source article's eleven claims as data, each with the verdict that recorded results give.

A claim is made of parts. A part has a statistic, taken seed by seed, and the interval in which the claim needs it to
lie. Its verdict comes from the 90 % interval of the mean over seeds: inside, outside, or neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from splade_bench.report import claim_statistics as by_seed
from splade_bench.report.intervals import Interval, interval_90
from splade_bench.report.page import Block, Table, Text
from splade_bench.report.tables import (
    MISSING,
    MRR_EQUAL_WITHIN,
)
from splade_bench.results.records import CellResult

FEWEST_SEEDS = 3
INTRODUCTION = f"""\
## The article's claims

Each claim is judged from the runs above, by a statistic for each seed: median over what was paired, then the mean over
seeds with its 90 % interval (Student's t). *holds*: every part's interval lies where the claim needs it. *does not
hold*: every part's lies outside. *depends*: parts disagree, or an interval lies across the border. *not measured here*:
fewer than {FEWEST_SEEDS} seeds of what a part needs.
"""
Verdict = Literal["holds", "does not hold", "depends", "not measured here"]
Statistic = Callable[[Sequence[CellResult]], Mapping[int, Sequence[float]]]
"""Results -> seed -> the values found with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Something that a claim needs to be true."""

    what: str
    """The statistic, in words."""
    statistic: Statistic
    low: float = float("-inf")
    high: float = float("inf")
    form: str = ".2f"

    @property
    def wanted(self) -> str:
        """The interval in words."""
        if self.low == float("-inf"):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high == float("inf") else f"{self.low:g} to {self.high:g}"

    def judge(self, results: Sequence[CellResult]) -> Finding:
        """What the results say about it."""
        values = [statistics.median(found) for found in self.statistic(results).values() if found]
        if len(values) < FEWEST_SEEDS:
            return Finding(part=self, verdict="not measured here", seeds=len(values), interval=None)
        interval = interval_90(values)
        verdict: Verdict = "depends"
        if self.low <= interval.low and interval.high <= self.high:
            verdict = "holds"
        elif interval.high < self.low or interval.low > self.high:
            verdict = "does not hold"
        return Finding(part=self, verdict=verdict, seeds=len(values), interval=interval)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A part's verdict and what it rests on."""

    part: Part
    verdict: Verdict
    seeds: int
    interval: Interval | None

    @property
    def effect(self) -> str:
        """The statistic with its interval."""
        return MISSING if self.interval is None else self.interval.text(self.part.form)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What the article says, and what decides it."""

    number: int
    says: str
    decided_by: str
    """Which cells."""
    parts: Sequence[Part] = ()
    """None: nothing that this project runs can decide it."""


CLAIMS: Sequence[Claim] = (
    Claim(
        number=1,
        says="Gradient accumulation keeps the effective batch and needs less memory.",
        decided_by="standard mode, equal effective batch: small batches accumulated against one large batch",
        parts=(
            Part(what="memory above the baseline, accumulated ÷ at once", statistic=by_seed.accumulated_memory, high=1),
            Part(
                what="MRR@10, accumulated − at once",
                statistic=by_seed.accumulated_mrr,
                low=-MRR_EQUAL_WITHIN,
                form="+.3f",
            ),
        ),
    ),
    Claim(
        number=2,
        says="Training time grows in proportion to the accumulation steps.",
        decided_by="standard mode, equal batch size: with accumulation against without",
        parts=(
            Part(
                what="time of an optimizer step ÷ accumulation steps, to that without",
                statistic=by_seed.time_per_accumulated_step,
                low=0.9,
                high=1.1,
            ),
            Part(
                what="time per query ÷ accumulation steps, to that without",
                statistic=by_seed.time_per_query_and_step,
                low=0.9,
                high=1.1,
            ),
        ),
    ),
    Claim(
        number=3,
        says="A CPU is much slower than a GPU.",
        decided_by="equal cells on cuda or mps and on cpu",
        parts=(Part(what="time, cpu ÷ accelerator", statistic=by_seed.cpu_over_accelerator, low=2),),
    ),
    Claim(
        number=4,
        says="The settings that need least memory are the slowest.",
        decided_by="the modes at equal grid points",
        parts=(
            Part(
                what="share of grid points at which the mode with the least memory is the slowest",
                statistic=by_seed.leanest_is_slowest,
                low=0.9,
            ),
            Part(
                what="share of modes leaner than standard that are slower than it",
                statistic=by_seed.leaner_is_slower,
                low=0.9,
            ),
        ),
    ),
    Claim(
        number=5,
        says="del and gc.collect() every five batches save memory.",
        decided_by="article mode against standard mode at equal grid points",
        parts=(
            Part(what="memory above the baseline, article ÷ standard", statistic=by_seed.article_memory, high=0.98),
        ),
    ),
    Claim(
        number=6,
        says="Memory techniques cost no retrieval quality; P@1 and MRR are 1.0 on the domain's data.",
        decided_by="every mode against standard at equal grid points; the article's easy protocol, which ranks a "
        "query's positive among its own negatives",
        parts=(
            Part(
                what="MRR@10, the worst mode − standard",
                statistic=by_seed.mode_mrr,
                low=-MRR_EQUAL_WITHIN,
                form="+.3f",
            ),
            Part(what="P@1 among a query's own candidates", statistic=by_seed.candidate_precision, low=1, form=".3f"),
        ),
    ),
    Claim(
        number=7,
        says="Batch 4 × accumulation 4 on a CPU trains BERT-base on a laptop.",
        decided_by="the base model at batch 4 × 4 on the cpu, standard or article; one optimizer step, not 3 epochs",
        parts=(Part(what="peak RSS, GiB, of 16", statistic=by_seed.laptop_peak_gib, high=16),),
    ),
    Claim(
        number=8,
        says="At batch 8 × 512 tokens, MPS fails at 26.77 GB allocated, asking for 476.91 MB.",
        decided_by="the base model on mps at batch 8; what its plan says stands in ARTICLE",
    ),
    Claim(
        number=9,
        says="Gradient accumulation is the most effective technique.",
        decided_by="standard mode at one effective batch: accumulation against each technique added by itself, and "
        "against the memory-efficient mode",
        parts=(
            Part(
                what="memory saved by accumulation ÷ by the best technique added by itself",
                statistic=by_seed.accumulation_over_best_technique,
                low=1,
            ),
            Part(
                what="memory saved by accumulation ÷ by the memory-efficient mode",
                statistic=by_seed.accumulation_over_memory_efficient,
                low=1,
            ),
        ),
    ),
    Claim(
        number=10,
        says="The model generalises across query types.",
        decided_by="queries by type: the embedded corpus has one",
    ),
    Claim(
        number=11,
        says="First smaller batches with accumulation, then the CPU, then tracking; memory-efficient last.",
        decided_by="standard mode accumulated against memory-efficient mode at once, equal effective batch",
        parts=(
            Part(what="memory, first rung ÷ last rung", statistic=by_seed.ladder_memory, high=1),
            Part(what="time, first rung ÷ last rung", statistic=by_seed.ladder_time, high=1),
        ),
    ),
)


def judge(claim: Claim, results: Sequence[CellResult]) -> tuple[Verdict, list[Finding]]:
    """The claim's verdict, never from fewer seeds than each of its parts needs."""
    findings = [part.judge(results) for part in claim.parts]
    verdicts = {finding.verdict for finding in findings}
    if not findings or "not measured here" in verdicts:
        return "not measured here", findings
    return (verdicts.pop() if len(verdicts) == 1 else "depends"), findings


Judged = Sequence[tuple[Claim, Verdict, Sequence[Finding]]]


def judge_all(results: Sequence[CellResult]) -> Judged:
    """Every claim with its verdict and what that rests on."""
    return [(claim, *judge(claim, results)) for claim in CLAIMS]


def claims_table(judged: Judged) -> Table:
    """A row a claim."""
    rows = []
    for claim, verdict, findings in judged:
        effects = "; ".join(f"{finding.part.what}: {finding.effect}" for finding in findings if finding.interval)
        rows.append([str(claim.number), claim.says, verdict, effects or MISSING])
    return Table(name="claims", headings=["", "the article says", "verdict", "effect (90 % interval)"], rows=rows)


def claims_details(judged: Judged) -> list[Block]:
    """What decides each claim: a row a part."""
    rows = []
    for claim, _, findings in judged:
        for finding in findings:
            part = finding.part
            rows.append(
                [
                    str(claim.number),
                    claim.decided_by,
                    part.what,
                    part.wanted,
                    finding.effect,
                    str(finding.seeds),
                    finding.verdict,
                ]
            )
        if not claim.parts:
            rows.append([str(claim.number), claim.decided_by, *[MISSING] * 4, "not measured here"])
    headings = ["", "decided by", "statistic", "the claim needs", "found", f"seeds (≥ {FEWEST_SEEDS})", "verdict"]
    return [Text("### What decides them"), Table(name="claims-parts", headings=headings, rows=rows)]
