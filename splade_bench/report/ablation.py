"""The ablation page: what each technique saves and costs, alone and in the full set, and what modes do to quality."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splade_bench.cell import WORKLOADS
from splade_bench.config import MEMORY_MODES
from splade_bench.report.tables import (
    above_baseline_bytes,
    conditions,
    escape,
    grid_point,
    markdown,
    median_and_range,
)
from splade_bench.results import CellResult
from splade_bench.units import as_mib

PAGE_NAME = "ABLATION.md"
WORKLOADS_SHOWN = ("ablation-mini", "ablation", "quality")
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
# Student's t at 95 %, by degrees of freedom.
_T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}
_T_95_BEYOND = 1.812
_FEWEST_SEEDS = 5
_EQUAL_WITHIN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A technique in a setting: a run with it and the run without it that is otherwise the same."""

    workload: str
    setting: str
    technique: str
    with_it: CellResult
    without_it: CellResult


def ablation_page(results: Sequence[CellResult]) -> str:
    """The page's Markdown."""
    sections = [_INTRODUCTION, conditions(results)]
    effects = effects_of(results)
    for workload, setting in dict.fromkeys((effect.workload, effect.setting) for effect in effects):
        chosen = [effect for effect in effects if (effect.workload, effect.setting) == (workload, setting)]
        sections += [f"## {setting}, workload `{workload}`", _effects_table(chosen)]
    quality = _quality_table(results)
    if quality:
        sections += [_QUALITY, quality]
    problems = dict.fromkeys(
        f"- {escape(result.cell_id)}: {result.status}: {escape(result.error or '')}"
        for result in results
        if result.status != "ok"
    )
    if problems:
        sections.append("\n".join(["Not measured to the end:", "", *problems]))
    return "\n\n".join(sections) + "\n"


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
    return [effect for effect in effects if effect.with_it.seed == effects[0].with_it.seed]


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


def _effects_table(effects: Sequence[Effect]) -> str:
    rows = []
    for technique in dict.fromkeys(effect.technique for effect in effects):
        pairs = [(effect.with_it, effect.without_it) for effect in effects if effect.technique == technique]
        before = [_above_baseline_mib(without_it) for _, without_it in pairs]
        after = [_above_baseline_mib(with_it) for with_it, _ in pairs]
        saved = [one - other for one, other in zip(before, after, strict=True) if one is not None and other is not None]
        times_s = [(_time_s(with_it), _time_s(without_it)) for with_it, without_it in pairs]
        mrr = [value for pair in pairs if (value := _difference(*pair)) is not None]
        rows.append(
            [
                technique,
                str(len(pairs)),
                median_and_range([value for value in before if value is not None], ".0f"),
                median_and_range([value for value in after if value is not None], ".0f"),
                median_and_range(saved, "+.0f"),
                median_and_range([one / other for one, other in times_s if one and other], ".2f"),
                median_and_range(mrr, "+.3f"),
            ]
        )
    headings = ["technique", "rounds", "without, MiB above baseline", "with, MiB", "saves, MiB", "time", "MRR@10"]
    return markdown(headings, rows)


def _above_baseline_mib(result: CellResult) -> float | None:
    added_bytes = above_baseline_bytes(result)
    return None if added_bytes is None else as_mib(added_bytes)


def _time_s(result: CellResult) -> float | None:
    """Of an optimizer step where the first one is only there to warm up, else of the whole training."""
    workload = WORKLOADS.get(result.workload)
    return result.step_time_s if workload and workload.compares_trainers else result.wall_time_s


def _quality_table(results: Sequence[CellResult]) -> str | None:
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
        differences = [value for pair in pairs if (value := _difference(*pair)) is not None]
        if len({result.seed for result, _ in pairs}) < _FEWEST_SEEDS or len(differences) < len(pairs):
            continue
        low, high = interval_90(differences)
        verdict = "equal within ± 0.01" if low >= -_EQUAL_WITHIN and high <= _EQUAL_WITHIN else "not shown to be equal"
        rows.append(
            [
                workload,
                setting,
                reference,
                str(len(pairs)),
                f"{statistics.mean(differences):+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                verdict,
                f"{max(_loss_difference(*pair) for pair in pairs):.1e}",
            ]
        )
    headings = ["workload", "mode", "against", "seeds", "MRR@10", "90 % interval", "verdict", "losses"]
    return markdown(headings, rows) if rows else None


def interval_90(differences: Sequence[float]) -> tuple[float, float]:
    """The two-sided 90 % interval of the mean, by Student's t over at least two values."""
    margin = _T_95.get(len(differences) - 1, _T_95_BEYOND) * statistics.stdev(differences) / len(differences) ** 0.5
    mean = statistics.mean(differences)
    return mean - margin, mean + margin


def _difference(result: CellResult, other: CellResult) -> float | None:
    if not result.metrics or not other.metrics:
        return None
    return result.metrics["mrr@10"] - other.metrics["mrr@10"]


def _loss_difference(result: CellResult, other: CellResult) -> float:
    pairs = zip((result.losses or [])[:10], (other.losses or [])[:10], strict=True)
    return max((abs(loss - its) / abs(its) for loss, its in pairs), default=float("nan"))
