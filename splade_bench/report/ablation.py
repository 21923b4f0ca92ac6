"""The ablation page: savings and costs of each technique, alone and in the full set, and the modes' quality."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from splade_bench.grid.workloads import WORKLOADS
from splade_bench.memory_modes import MEMORY_MODES, split_mode
from splade_bench.report.drawing import picture
from splade_bench.report.formatting import MRR_EQUAL_WITHIN, median_and_range
from splade_bench.report.intervals import interval_90
from splade_bench.report.markdown import code
from splade_bench.report.modes import REFERENCE_MODE, Pair, differences, ratios
from splade_bench.report.noise import noise_columns
from splade_bench.report.page import Block, Page, Table, Text, table_of
from splade_bench.report.provenance import failures, measured_on
from splade_bench.report.readers import group_by, in_mib, over_runs, succeeded
from splade_bench.report.sweep_plots import plot_effects
from splade_bench.results.conditions import newest_comparable, pair_key
from splade_bench.results.figures import added_bytes, mrr_at_10
from splade_bench.results.records import CellResult

PAGE_NAME = "ABLATION"
_INTRODUCTION = """\
# Single techniques

`splade-bench report` writes this page from recorded results; do not edit it. Each row compares runs with a technique
and runs without it, round by round, each in a fresh process. Workload, batches and seed are the same. *Saves* is the
difference in added memory. *Time* is with the technique divided by without: below 1, the technique also saves time.
*MRR@10* is with minus without. Several rounds show their median and range.

- `ablation-mini`: 8 queries with a hard negative each, real lengths up to 256 tokens (random token ids), a model of 6 x
  384 with BERT's vocabulary, dropout 0.1 everywhere. Times are seconds per optimizer step.
- `ablation`: the embedded corpus, 16 queries with a hard negative each, at most 64 tokens, a model of 2 x 128 with
  dropout 0.1 everywhere. Times are seconds of a whole training run. A technique changes which random numbers dropout
  draws, so a difference of 0.01 or 0.02 in MRR@10 means nothing.
- `quality`: the same without dropout, at most 48 tokens, over seeds.
"""
_QUALITY = """\
## Quality over seeds

Runs are paired by seed. The interval contains the mean difference in MRR@10 with a probability of 90 % (Student's t).
*Losses* is the largest relative difference in one of the first ten losses of a pair.
"""
_FEWEST_SEEDS = 5
_COMPARED_LOSSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A technique in a setting: a run with it and the run without it that equals it otherwise."""

    workload: str
    setting: str
    technique: str
    pair: Pair
    """With the technique, and without it."""


def ablation_page(results: Sequence[CellResult]) -> Page:
    """Each technique's effect in each setting, and each mode's quality."""
    blocks: list[Block] = [Text(_INTRODUCTION), *measured_on(results)]
    effects = group_by(effects_of(results), lambda effect: (effect.workload, effect.setting))
    for (workload, setting), chosen in effects.items():
        blocks += _setting_blocks(workload, setting, chosen)
    quality = _quality_table(results)
    if quality.rows:
        blocks += [Text(_QUALITY), quality]
    return Page(PAGE_NAME, [*blocks, *failures(results)])


def effects_of(results: Sequence[CellResult]) -> list[Effect]:
    """Pairs whose mode names differ by one technique, in the order of the results."""
    by_setting = _by_setting(results)
    effects = []
    for (key, setting), result in by_setting.items():
        mode, technique, added = split_mode(setting)
        reference = by_setting.get((key, mode))
        if technique is not None and reference is not None:
            effects.append(
                Effect(
                    workload=result.workload,
                    setting=f"Added to `{mode}`" if added else f"Left out of `{mode}`",
                    technique=technique,
                    pair=(result, reference) if added else (reference, result),
                )
            )
    if not effects:
        return []
    ((seed, _),) = Counter(effect.pair[0].seed for effect in effects).most_common(1)
    return newest_comparable(
        [effect for effect in effects if effect.pair[0].seed == seed],
        key=lambda effect: (effect.workload, effect.setting, effect.technique),
        run=lambda effect: effect.pair[0],
    )


def _by_setting(results: Sequence[CellResult]) -> Mapping[tuple[object, str], CellResult]:
    """Successful runs by what the runs of a pair share, and by the setting in which they differ.

    A setting is a mode's name. Autocast is written as a technique that is added to it.
    """
    by_setting: dict[tuple[object, str], CellResult] = {}
    for result in succeeded(results):
        shared = pair_key(replace(result, mixed_precision="no")), result.round
        autocast = "" if result.mixed_precision == "no" else f"+autocast-{result.mixed_precision}"
        by_setting[shared, result.memory_mode + autocast] = result
    return by_setting


def _setting_blocks(workload: str, setting: str, effects: Sequence[Effect]) -> list[Block]:
    name = f"{setting.lower().replace('`', '').replace(' ', '-')}-{workload}"
    by_technique = group_by(effects, lambda effect: effect.technique)
    pairs = {technique: [effect.pair for effect in chosen] for technique, chosen in by_technique.items()}
    saved = {technique: [-value for value in differences(pairs[technique], in_mib(added_bytes))] for technique in pairs}
    times = {technique: ratios(pairs[technique], _time_s) for technique in pairs}

    def added_memory(technique: str, side: int) -> str:
        return over_runs([pair[side] for pair in pairs[technique]], in_mib(added_bytes), ".0f")

    table = table_of(
        name,
        list(pairs),
        [
            ("technique", lambda technique: technique),
            ("rounds", lambda technique: str(len(pairs[technique]))),
            ("added memory without, MiB", lambda technique: added_memory(technique, 1)),
            ("with, MiB", lambda technique: added_memory(technique, 0)),
            ("saves, MiB", lambda technique: median_and_range(saved[technique], "+.0f")),
            ("time", lambda technique: median_and_range(times[technique], ".2f")),
            ("MRR@10", lambda technique: median_and_range(differences(pairs[technique], mrr_at_10), "+.3f")),
            *noise_columns(list(pairs), lambda technique: [run for pair in pairs[technique] for run in pair]),
        ],
    )
    medians = {
        technique: (statistics.median(saved[technique]), 100 * (statistics.median(times[technique]) - 1))
        for technique in pairs
        if saved[technique] and times[technique]
    }
    return [
        Text(f"## {setting}, workload {code(workload)}"),
        table,
        *picture(name, "savings and costs of each technique", plot_effects, medians),
    ]


def _time_s(result: CellResult) -> float | None:
    """Seconds per optimizer step where the first step is a warm-up, else of the whole training."""
    workload = WORKLOADS.get(result.workload)
    return result.step_time_s if workload and workload.warm_up_batch else result.wall_time_s


def _quality_table(results: Sequence[CellResult]) -> Table:
    """A row per workload and setting: a named mode against standard, a technique against its mode without it."""
    rows = []
    by_setting = _by_setting(results)
    settings = group_by(by_setting, lambda key: (by_setting[key].workload, key[1]))
    for (workload, setting), keys in settings.items():
        reference = REFERENCE_MODE if setting in MEMORY_MODES else split_mode(setting)[0]
        pairs = [
            (by_setting[key], by_setting[key[0], reference])
            for key in keys
            if setting != reference and (key[0], reference) in by_setting
        ]
        pairs = newest_comparable(pairs, key=lambda pair: None, run=lambda pair: pair[0])
        by_seed = group_by(pairs, lambda pair: pair[0].seed).values()
        of_seeds = [differences(chosen, mrr_at_10) for chosen in by_seed]
        if len(of_seeds) >= _FEWEST_SEEDS and all(of_seeds):
            interval = interval_90([statistics.median(values) for values in of_seeds])  # equal runs count once
            is_equal = interval.low >= -MRR_EQUAL_WITHIN and interval.high <= MRR_EQUAL_WITHIN
            rows.append(
                [
                    *(workload, setting, reference, str(len(of_seeds))),
                    *(f"{interval.mean:+.4f}", f"{interval.low:+.4f} to {interval.high:+.4f}"),
                    f"equal within ± {MRR_EQUAL_WITHIN:g}" if is_equal else "not shown to be equal",
                    f"{max(_loss_errors(pairs), default=float('nan')):.1e}",
                ]
            )
    headings = ["workload", "mode", "against", "seeds", "MRR@10", "90 % interval", "verdict", "losses"]
    return Table(name="quality", headings=headings, rows=rows)


def _loss_errors(pairs: Sequence[Pair]) -> list[float]:
    """Relative differences in the first losses of each pair."""
    both = [[(run.losses or [])[:_COMPARED_LOSSES] for run in pair] for pair in pairs]
    steps = [step for losses, others in both for step in zip(losses, others, strict=True)]
    return [abs(loss - other) / abs(other) for loss, other in steps if loss is not None and other]
