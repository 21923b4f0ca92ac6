"""The source article's eleven claims as data, each with the verdict that recorded results give.

A claim has parts. A part has a statistic for each seed and the range in which the statistic must lie. The 90 % interval
of its mean over seeds decides the verdict: inside the range, outside, or neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from splade_bench.report import claim_statistics as by_seed
from splade_bench.report.formatting import MISSING, MRR_EQUAL_WITHIN
from splade_bench.report.intervals import Interval, interval_90
from splade_bench.report.page import Block, Table, Text
from splade_bench.report.readers import group_by
from splade_bench.results.records import CellResult

FEWEST_SEEDS = 3
INTRODUCTION = f"""\
## The article's claims

The runs above decide each claim. Each part of a claim has a statistic, computed for each seed from pairs of equal runs.
The table shows the mean of the statistic over seeds and its 90 % interval (Student's t).

- *holds*: the interval of every part lies inside the range that the claim needs.
- *does not hold*: the interval of every part lies outside.
- *depends*: the parts disagree, or an interval contains a limit of its range.
- *not measured here*: a part has fewer than {FEWEST_SEEDS} seeds.
"""
Verdict = Literal["holds", "does not hold", "depends", "not measured here"]
Statistic = Callable[[Sequence[CellResult]], by_seed.SeedValues]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One condition of a claim."""

    what: str
    """The statistic in words."""
    statistic: Statistic
    low: float = float("-inf")
    high: float = float("inf")
    form: str = ".2f"
    per_seed: Callable[[Sequence[float]], float] = statistics.median
    """How the values of one seed become one value."""

    @property
    def wanted(self) -> str:
        """The range in words."""
        if self.low == float("-inf"):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high == float("inf") else f"{self.low:g} to {self.high:g}"

    def judge(self, results: Sequence[CellResult]) -> Finding:
        """The verdict of the results on it."""
        of_seeds = group_by(self.statistic(results), lambda item: item[0]).values()
        values = [self.per_seed([value for _, value in items]) for items in of_seeds]
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
    """A part's verdict with its interval."""

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
    """A sentence of the article, and the measurements that decide it."""

    number: int
    says: str
    decided_by: str
    """The cells that decide it."""
    parts: Sequence[Part] = ()
    """Empty: this project does not measure it."""


CLAIMS: Sequence[Claim] = (
    Claim(
        number=1,
        says="Gradient accumulation keeps the effective batch and needs less memory.",
        decided_by="standard mode at equal effective batch: small accumulated batches against one large batch",
        parts=(
            Part(what="added memory, accumulated ÷ one batch", statistic=by_seed.accumulated_memory, high=1),
            Part(
                what="MRR@10, accumulated − one batch",
                statistic=by_seed.accumulated_mrr,
                low=-MRR_EQUAL_WITHIN,
                form="+.3f",
            ),
        ),
    ),
    Claim(
        number=2,
        says="Training time grows in proportion to the accumulation steps.",
        decided_by="standard mode at equal batch size: with accumulation against without",
        parts=(
            Part(
                what="time per optimizer step ÷ accumulation steps, relative to no accumulation",
                statistic=by_seed.time_per_accumulated_step,
                low=0.9,
                high=1.1,
            ),
            Part(
                what="time per query ÷ accumulation steps, relative to no accumulation",
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
        says="The settings that need the least memory are the slowest.",
        decided_by="all modes at equal grid points",
        parts=(
            Part(
                what="share of grid points where the mode with the least memory is the slowest",
                statistic=by_seed.leanest_is_slowest,
                low=0.9,
                per_seed=statistics.mean,
            ),
            Part(
                what="share of modes with less memory than standard that are slower",
                statistic=by_seed.leaner_is_slower,
                low=0.9,
                per_seed=statistics.mean,
            ),
        ),
    ),
    Claim(
        number=5,
        says="del and gc.collect() every five batches save memory.",
        decided_by="article mode against standard mode at equal grid points",
        parts=(Part(what="added memory, article ÷ standard", statistic=by_seed.article_memory, high=0.98),),
    ),
    Claim(
        number=6,
        says="Memory techniques cost no retrieval quality; P@1 and MRR are 1.0 on the domain's data.",
        decided_by="every mode against standard at equal grid points; P@1 as in the article, where each query ranks "
        "only its own positive and negatives",
        parts=(
            Part(
                what="MRR@10, the worst mode − standard",
                statistic=by_seed.mode_mrr,
                low=-MRR_EQUAL_WITHIN,
                form="+.3f",
                per_seed=min,
            ),
            Part(what="P@1 among a query's own documents", statistic=by_seed.candidate_precision, low=1, form=".3f"),
        ),
    ),
    Claim(
        number=7,
        says="Batch 4 × accumulation 4 on a CPU trains BERT-base on a laptop.",
        decided_by="the base model at batch 4 × 4 on the CPU in the mode standard or article, for one optimizer step "
        "instead of 3 epochs",
        parts=(Part(what="peak RSS, GiB, on a machine with 16 GiB", statistic=by_seed.laptop_peak_gib, high=16),),
    ),
    Claim(
        number=8,
        says="At batch 8 × 512 tokens, MPS fails at 26.77 GB allocated, asking for 476.91 MB.",
        decided_by="the base model on mps at batch 8; ARTICLE shows its plan",
    ),
    Claim(
        number=9,
        says="Gradient accumulation is the most effective technique.",
        decided_by="equal effective batch: accumulation in the standard mode against each single technique added to "
        "it, and against the memory-efficient mode",
        parts=(
            Part(
                what="memory saved by accumulation ÷ by the best single technique",
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
        decided_by="several query types; the embedded corpus has one",
    ),
    Claim(
        number=11,
        says="First smaller batches with accumulation, then the CPU, then tracking; memory-efficient last.",
        decided_by="equal effective batch: accumulation in the standard mode against the memory-efficient mode",
        parts=(
            Part(what="added memory, first step ÷ last step", statistic=by_seed.ladder_memory, high=1),
            Part(what="time, first step ÷ last step", statistic=by_seed.ladder_time, high=1),
        ),
    ),
)


def judge(claim: Claim, results: Sequence[CellResult]) -> tuple[Verdict, list[Finding]]:
    """The claim's verdict with those of its parts. Each part needs its number of seeds."""
    findings = [part.judge(results) for part in claim.parts]
    verdicts = {finding.verdict for finding in findings}
    if not findings or "not measured here" in verdicts:
        return "not measured here", findings
    return (verdicts.pop() if len(verdicts) == 1 else "depends"), findings


Judged = Sequence[tuple[Claim, Verdict, Sequence[Finding]]]


def judge_all(results: Sequence[CellResult]) -> Judged:
    """Every claim with its verdict and those of its parts."""
    return [(claim, *judge(claim, results)) for claim in CLAIMS]


def claims_table(judged: Judged) -> Table:
    """A row per claim."""
    rows = []
    for claim, verdict, findings in judged:
        effects = "; ".join(f"{finding.part.what}: {finding.effect}" for finding in findings if finding.interval)
        rows.append([str(claim.number), claim.says, verdict, effects or MISSING])
    return Table(name="claims", headings=["", "the article says", "verdict", "effect (90 % interval)"], rows=rows)


def claims_details(judged: Judged) -> list[Block]:
    """How each claim was decided: a row per part."""
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
    headings = ["", "decided by", "statistic", "needed", "measured", f"seeds (≥ {FEWEST_SEEDS})", "verdict"]
    return [Text("### How the claims were decided"), Table(name="claims-parts", headings=headings, rows=rows)]
