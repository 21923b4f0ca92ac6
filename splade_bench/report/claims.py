"""The source article's eleven claims as data, each with the verdict that recorded results give.

A claim has parts. A part has a statistic for each seed and the range in which the statistic must lie. The 90 % interval
of its mean over seeds decides the verdict: inside the range, outside, or neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from splade_bench.memory_modes import MEMORY_TECHNIQUES
from splade_bench.report.claim_statistics import (
    Statistic,
    accumulated,
    accumulation_over_best,
    article_and_standard,
    cpu_and_accelerator,
    difference,
    figure,
    first_and_last_step,
    leaner_is_slower,
    leanest_is_slowest,
    mode_mrr,
    on_a_laptop,
    query_time_per_batch,
    ratio,
    step_time_per_batch,
    with_and_without_accumulation,
)
from splade_bench.report.formatting import MISSING, MRR_EQUAL_WITHIN
from splade_bench.report.intervals import interval_90
from splade_bench.report.modes import REFERENCE_MODE
from splade_bench.report.page import Block, Table, Text, bullets
from splade_bench.report.readers import group_by, in_gib, recorded, succeeded
from splade_bench.results.figures import added_bytes, mrr_at_10, peak_rss_bytes, wall_time_s
from splade_bench.results.records import CellResult

FEWEST_SEEDS = 3
_INTRODUCTION = f"""\
## The article's claims

The runs above decide each claim. Each part of a claim has a statistic, computed for each seed from pairs of equal runs.
The table shows the mean of the statistic over seeds and its 90 % interval (Student's t).

- *holds*: the interval of every part lies inside the range that the claim needs.
- *does not hold*: the interval of every part lies outside.
- *depends*: the parts disagree, or an interval contains a limit of its range.
- *too few seeds*: a part has fewer than {FEWEST_SEEDS} seeds. The table shows their mean.
- *not measured here*: a part has no runs.
"""
Verdict = Literal["holds", "does not hold", "depends", "too few seeds", "not measured here"]


@dataclass(frozen=True, slots=True)
class Part:
    """One condition of a claim."""

    what: str
    """The statistic in words."""
    statistic: Statistic
    _: KW_ONLY
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
        by_seed = group_by(self.statistic(results), lambda item: item[0]).values()
        values = [self.per_seed([value for _, value in items]) for items in by_seed]
        if not values:
            return Finding(self, "not measured here", 0, MISSING)
        if len(values) < FEWEST_SEEDS:
            return Finding(self, "too few seeds", len(values), format(statistics.mean(values), self.form))
        interval = interval_90(values)
        verdict: Verdict = "depends"
        if self.low <= interval.low and interval.high <= self.high:
            verdict = "holds"
        elif interval.high < self.low or interval.low > self.high:
            verdict = "does not hold"
        return Finding(self, verdict, len(values), interval.text(self.form))


@dataclass(frozen=True, slots=True)
class Finding:
    """A part's verdict with the statistic that it rests on."""

    part: Part
    verdict: Verdict
    seeds: int
    effect: str
    """The mean over seeds, with its interval if there are enough seeds."""


@dataclass(frozen=True, slots=True)
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
        1,
        "Gradient accumulation keeps the effective batch and needs less memory.",
        "standard mode at equal effective batch: small accumulated batches against one large batch",
        [
            Part("added memory, accumulated ÷ one batch", ratio(accumulated, added_bytes), high=1),
            Part(
                "MRR@10, accumulated − one batch",
                difference(accumulated, mrr_at_10),
                low=-MRR_EQUAL_WITHIN,
                form="+.3f",
            ),
        ],
    ),
    Claim(
        2,
        "Training time grows in proportion to the accumulation steps.",
        "standard mode at equal batch size: with accumulation against without",
        [
            Part(
                "time per optimizer step ÷ accumulation steps, relative to no accumulation",
                ratio(with_and_without_accumulation, step_time_per_batch),
                low=0.9,
                high=1.1,
            ),
            Part(
                "time per query ÷ accumulation steps, relative to no accumulation",
                ratio(with_and_without_accumulation, query_time_per_batch),
                low=0.9,
                high=1.1,
            ),
        ],
    ),
    Claim(
        3,
        "A CPU is much slower than a GPU.",
        "equal cells on cuda or mps and on cpu",
        [Part("time, cpu ÷ accelerator", ratio(cpu_and_accelerator, wall_time_s), low=2)],
    ),
    Claim(
        4,
        "The settings that need the least memory are the slowest.",
        "all modes at equal grid points",
        [
            Part(
                "share of grid points where the mode with the least memory is the slowest",
                leanest_is_slowest,
                low=0.9,
                per_seed=statistics.mean,
            ),
            Part(
                "share of modes with less memory than standard that are slower",
                leaner_is_slower,
                low=0.9,
                per_seed=statistics.mean,
            ),
        ],
    ),
    Claim(
        5,
        "del and gc.collect() every five batches save memory.",
        "article mode against standard mode at equal grid points",
        [Part("added memory, article ÷ standard", ratio(article_and_standard, added_bytes), high=0.98)],
    ),
    Claim(
        6,
        "Memory techniques cost no retrieval quality; P@1 and MRR are 1.0 on the domain's data.",
        "every mode against standard at equal grid points; P@1 as in the article, where each query ranks only its own "
        "positive and negatives",
        [
            Part("MRR@10, the worst mode − standard", mode_mrr, low=-MRR_EQUAL_WITHIN, form="+.3f", per_seed=min),
            Part("P@1 among a query's own documents", figure(succeeded, recorded("candidate_p@1")), low=1, form=".3f"),
        ],
    ),
    Claim(
        7,
        "Batch 4 × accumulation 4 on a CPU trains BERT-base on a laptop.",
        "the base model at batch 4 × 4 on the CPU in the mode standard or article, for one optimizer step instead of "
        "3 epochs",
        [Part("peak RSS, GiB, on a machine with 16 GiB", figure(on_a_laptop, in_gib(peak_rss_bytes)), high=16)],
    ),
    Claim(
        8,
        "At batch 8 × 512 tokens, MPS fails at 26.77 GB allocated, asking for 476.91 MB.",
        "the base model on mps at batch 8; ARTICLE shows its plan",
    ),
    Claim(
        9,
        "Gradient accumulation is the most effective technique.",
        "equal effective batch: accumulation in the standard mode against each single technique added to it, and "
        "against the memory-efficient mode",
        [
            Part(
                "memory saved by accumulation ÷ by the best single technique",
                accumulation_over_best([f"{REFERENCE_MODE}+{technique}" for technique in MEMORY_TECHNIQUES]),
                low=1,
            ),
            Part(
                "memory saved by accumulation ÷ by the memory-efficient mode",
                accumulation_over_best(["memory-efficient"]),
                low=1,
            ),
        ],
    ),
    Claim(10, "The model generalises across query types.", "several query types; the embedded corpus has one"),
    Claim(
        11,
        "First smaller batches with accumulation, then the CPU, then tracking; memory-efficient last.",
        "equal effective batch: accumulation in the standard mode against the memory-efficient mode",
        [
            Part("added memory, first step ÷ last step", ratio(first_and_last_step, added_bytes), high=1),
            Part("time, first step ÷ last step", ratio(first_and_last_step, wall_time_s), high=1),
        ],
    ),
)


def judge(claim: Claim, results: Sequence[CellResult]) -> tuple[Verdict, list[Finding]]:
    """The claim's verdict with those of its parts. Each part needs its number of seeds."""
    findings = [part.judge(results) for part in claim.parts]
    verdicts = {finding.verdict for finding in findings}
    if not findings or "not measured here" in verdicts:
        return "not measured here", findings
    if "too few seeds" in verdicts:
        return "too few seeds", findings
    return (verdicts.pop() if len(verdicts) == 1 else "depends"), findings


def claims_blocks(results: Sequence[CellResult]) -> list[Block]:
    """A table with a row per claim, and one with a row per part: how the claim was decided."""
    rows, details = [], []
    numbers: dict[Verdict, list[str]] = {}
    for claim in CLAIMS:
        verdict, findings = judge(claim, results)
        if findings:
            numbers.setdefault(verdict, []).append(str(claim.number))
        effects = "; ".join(f"{finding.part.what}: {finding.effect}" for finding in findings if finding.seeds)
        rows.append([str(claim.number), claim.says, verdict, effects or MISSING])
        parts = [
            [found.part.what, found.part.wanted, found.effect, str(found.seeds), found.verdict] for found in findings
        ]
        for cells in parts or [[*[MISSING] * 4, verdict]]:
            details.append([str(claim.number), claim.decided_by, *cells])
    decided = ["", "decided by", "statistic", "needed", "measured", f"seeds (≥ {FEWEST_SEEDS})", "verdict"]
    return [
        Text(_INTRODUCTION),
        Table(name="claims", headings=["", "the article says", "verdict", "effect (90 % interval)"], rows=rows),
        *_what_to_run(numbers.get("too few seeds", []), numbers.get("not measured here", [])),
        Text("### How the claims were decided"),
        Table(name="claims-parts", headings=decided, rows=details),
    ]


def _what_to_run(too_few_seeds: Sequence[str], not_measured: Sequence[str]) -> list[Block]:
    """How to decide the claims with these numbers; nothing if no claim lacks seeds, as in a sweep that is complete."""
    if not too_few_seeds:
        return []
    lines = [
        f"Too few seeds: {', '.join(too_few_seeds)}. `pytest benchmarks --profile full` measures {FEWEST_SEEDS} "
        "seeds. Add the options that these runs had, such as `--device`."
    ]
    if not_measured:
        lines.append(
            f"Not measured here: {', '.join(not_measured)}. `benchmarks/README.md` has the commands of a sweep that "
            "decides every claim that a CPU can decide."
        )
    return bullets(lines, heading="To decide more claims:")
