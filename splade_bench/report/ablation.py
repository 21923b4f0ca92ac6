"""The ablation page: what each technique saves and costs, alone and in the full set, and what modes do to quality."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splade_bench.config import MEMORY_MODES
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.report.drawing import svg_of
from splade_bench.report.intervals import interval_90
from splade_bench.report.markdown import code
from splade_bench.report.modes import differences, ratios
from splade_bench.report.page import Block, Page, Picture, Table, Text, bullets
from splade_bench.report.tables import (
    MRR_EQUAL_WITHIN,
    above_baseline_bytes,
    conditions,
    grid_point,
    in_mib,
    median_and_range,
    mrr_at_10,
    newest_alike,
    over_runs,
    problems,
)
from splade_bench.report.trade_plots import EffectBar, plot_effects
from splade_bench.results.records import CellResult

PAGE_NAME = "ABLATION"
_INTRODUCTION = """\
# Techniques one by one

Written by `splade-bench report` from recorded results; do not edit. Each row compares runs of the same workload,
batches and seed, each in a fresh process: those with the technique and those without, round by round. *Saves* is the
difference of the peak RSS; *time* is that with the technique over that without, so below 1 it saves time too; *MRR@10*
is with minus without. Several rounds show their median and range.

- `ablation-mini`: 8 queries with a hard negative each, of real lengths up to 256 tokens (random token ids), a model of
  6 x 384 with BERT's vocabulary and dropout 0.1 everywhere; seconds of an optimizer step.
- `ablation`: the embedded corpus, 16 queries with a hard negative each, cut at 64 tokens, a model of 2 x 128 with
  dropout 0.1 everywhere; seconds of a whole training run. Dropout draws other numbers under other techniques, so MRR@10
  moves by a hundredth or two without meaning.
- `quality`: the same without dropout, cut at 48 tokens, over seeds.
"""
_QUALITY = """\
## Quality over seeds

Paired by seed. The interval holds the mean difference in MRR@10 with a probability of 90 % (Student's t). *Losses* is
the largest difference in one of the first ten losses of a pair, relative to the loss.
"""
_FEWEST_SEEDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A technique in a setting: a run with it and the run without it that is otherwise the same."""

    workload: str
    setting: str
    technique: str
    with_it: CellResult
    without_it: CellResult


def ablation_page(results: Sequence[CellResult]) -> Page:
    """Each technique's effect in each setting, and each mode's quality."""
    blocks: list[Block] = [Text(_INTRODUCTION), *conditions(results)]
    effects = effects_of(results)
    for workload, setting in dict.fromkeys((effect.workload, effect.setting) for effect in effects):
        chosen = [effect for effect in effects if (effect.workload, effect.setting) == (workload, setting)]
        blocks += _setting_blocks(workload, setting, chosen)
    quality = _quality_table(results)
    if quality.rows:
        blocks += [Text(_QUALITY), quality]
    missing = problems(results, lambda result: result.cell_id)
    return Page(PAGE_NAME, [*blocks, *bullets(missing, heading="Not measured to the end:")])


def _setting_blocks(workload: str, setting: str, effects: Sequence[Effect]) -> list[Block]:
    name = f"{setting.lower().replace('`', '').replace(' ', '-')}-{workload}"
    techniques = dict.fromkeys(effect.technique for effect in effects)
    summaries = [_summary([effect for effect in effects if effect.technique == technique]) for technique in techniques]
    bars = [
        EffectBar(
            technique=summary.technique,
            saved_mib=statistics.median(summary.saved_mib),
            time_ratio=statistics.median(summary.time_ratios),
        )
        for summary in summaries
        if summary.saved_mib and summary.time_ratios
    ]
    blocks: list[Block] = [
        Text(f"## {setting}, workload {code(workload)}"),
        Table(name=name, headings=_EFFECT_HEADINGS, rows=[summary.row for summary in summaries]),
    ]
    if bars:
        picture = svg_of(plot_effects, bars)
        blocks.append(Picture(name=name, caption="what each technique saves and what it costs", svg=picture))
    return blocks


def effects_of(results: Sequence[CellResult]) -> list[Effect]:
    """Pairs whose mode names differ by one technique, in the order of the results."""
    ok = [result for result in results if result.status == "ok"]
    by_setting = {_key(result, _setting(result)): result for result in ok}
    effects = []
    for result in ok:
        mode, technique, added = _parts(_setting(result))
        reference = by_setting.get(_key(result, mode))
        if not technique or reference is None:
            continue
        with_it, without_it = (result, reference) if added else (reference, result)
        effects.append(
            Effect(
                workload=result.workload,
                setting=f"Added to `{mode}`" if added else f"Left out of `{mode}`",
                technique=technique,
                with_it=with_it,
                without_it=without_it,
            )
        )
    if not effects:
        return []
    ((seed, _),) = Counter(effect.with_it.seed for effect in effects).most_common(1)
    return newest_alike(
        [effect for effect in effects if effect.with_it.seed == seed],
        key=lambda effect: (effect.workload, effect.setting, effect.technique),
        run=lambda effect: effect.with_it,
    )


def _setting(result: CellResult) -> str:
    """The mode's name; autocast is written as a technique that is added to it."""
    if result.mixed_precision == "no":
        return result.memory_mode
    return f"{result.memory_mode}+autocast-{result.mixed_precision}"


def _key(result: CellResult, setting: str) -> tuple[object, ...]:
    """What a pair of runs has in common, and the setting of one of them."""
    return (*grid_point(replace(result, mixed_precision="no")), result.round, setting)


def _parts(setting: str) -> tuple[str, str, bool]:
    """Mode, technique and whether it is added; no technique for a mode by itself."""
    for separator, added in (("+", True), ("-without-", False)):
        mode, found, technique = setting.partition(separator)
        if found and mode in MEMORY_MODES:
            return mode, technique, added
    return setting, "", True


_EFFECT_HEADINGS = ("technique", "rounds", "without, MiB above baseline", "with, MiB", "saves, MiB", "time", "MRR@10")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Summary:
    """A technique's effects over all rounds of a setting."""

    technique: str
    saved_mib: Sequence[float]
    time_ratios: Sequence[float]
    row: Sequence[str]


def _summary(effects: Sequence[Effect]) -> _Summary:
    pairs = [(effect.with_it, effect.without_it) for effect in effects]
    saved_mib = [-value for value in differences(pairs, in_mib(above_baseline_bytes))]
    time_ratios = ratios(pairs, _time_s)
    row = [
        effects[0].technique,
        str(len(pairs)),
        over_runs([without_it for _, without_it in pairs], in_mib(above_baseline_bytes), ".0f"),
        over_runs([with_it for with_it, _ in pairs], in_mib(above_baseline_bytes), ".0f"),
        median_and_range(saved_mib, "+.0f"),
        median_and_range(time_ratios, ".2f"),
        median_and_range(differences(pairs, mrr_at_10), "+.3f"),
    ]
    return _Summary(technique=effects[0].technique, saved_mib=saved_mib, time_ratios=time_ratios, row=row)


def _time_s(result: CellResult) -> float | None:
    """Of an optimizer step where the first one is only there to warm up, else of the whole training."""
    workload = WORKLOADS.get(result.workload)
    return result.step_time_s if workload and workload.warm_up_batch else result.wall_time_s


def _quality_table(results: Sequence[CellResult]) -> Table:
    rows = []
    ok = [result for result in results if result.status == "ok"]
    by_setting = {_key(result, _setting(result)): result for result in ok}
    for workload, setting in dict.fromkeys((result.workload, _setting(result)) for result in ok):
        reference = "standard" if setting in MEMORY_MODES else _parts(setting)[0]
        pairs = [
            (result, by_setting[_key(result, reference)])
            for result in ok
            if (result.workload, _setting(result)) == (workload, setting)
            and setting != reference
            and _key(result, reference) in by_setting
        ]
        pairs = newest_alike(pairs, key=lambda pair: None, run=lambda pair: pair[0])
        seeds = dict.fromkeys(result.seed for result, _ in pairs)
        of_seeds = [differences([pair for pair in pairs if pair[0].seed == seed], mrr_at_10) for seed in seeds]
        if len(seeds) < _FEWEST_SEEDS or not all(of_seeds):
            continue
        mrr = [statistics.median(values) for values in of_seeds]  # equal runs of a seed are one of it
        interval = interval_90(mrr)
        is_equal = interval.low >= -MRR_EQUAL_WITHIN and interval.high <= MRR_EQUAL_WITHIN
        rows.append(
            [
                workload,
                setting,
                reference,
                str(len(seeds)),
                f"{interval.mean:+.4f}",
                f"{interval.low:+.4f} to {interval.high:+.4f}",
                f"equal within ± {MRR_EQUAL_WITHIN:g}" if is_equal else "not shown to be equal",
                f"{max(_loss_difference(*pair) for pair in pairs):.1e}",
            ]
        )
    headings = ["workload", "mode", "against", "seeds", "MRR@10", "90 % interval", "verdict", "losses"]
    return Table(name="quality", headings=headings, rows=rows)


def _loss_difference(result: CellResult, other: CellResult) -> float:
    pairs = zip((result.losses or [])[:10], (other.losses or [])[:10], strict=True)
    return max((abs(loss - its) / abs(its) for loss, its in pairs), default=float("nan"))
