"""The ablation page: what each technique saves and costs, alone and in the full set, and what modes do to quality."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from splade_bench.config import MEMORY_MODES
from splade_bench.report.tables import above_baseline_bytes, conditions, escape, grid_point, markdown, number
from splade_bench.results import CellResult
from splade_bench.units import as_mib

PAGE_NAME = "ABLATION.md"
WORKLOADS_SHOWN = ("ablation", "quality")
_INTRODUCTION = """\
# Techniques one by one

Written by `splade-bench report` from recorded results; do not edit. Each row compares two runs of the same workload,
batches and seed, each in a fresh process: one with the technique and one without. *Saves* is the difference of the peak
RSS; *time* is that with the technique over that without, so below 1 it saves time too; *MRR@10* is with minus without.
The workload `ablation` trains a model of 2 x 128 with dropout 0.1 everywhere on the embedded corpus, 16 queries with a
hard negative each, cut at 64 tokens: what a technique saves there in MiB grows with the model, the batch and the
length. Dropout draws other numbers under other techniques, so MRR@10 moves by a hundredth or two without meaning.
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
    """A technique in a setting: the run with it and the run without."""

    setting: str
    technique: str
    with_it: CellResult
    without_it: CellResult


def ablation_page(results: Sequence[CellResult]) -> str:
    """The page's Markdown."""
    sections = [_INTRODUCTION, conditions(results)]
    effects = effects_of(results)
    for setting in dict.fromkeys(effect.setting for effect in effects):
        sections += [f"## {setting}", _effects_table([effect for effect in effects if effect.setting == setting])]
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
    by_mode = {(grid_point(result), result.memory_mode): result for result in ok}
    effects = []
    for result in ok:
        mode, technique, added = _parts(result.memory_mode)
        reference = by_mode.get((grid_point(result), mode))
        if not technique or reference is None:
            continue
        with_it, without_it = (result, reference) if added else (reference, result)
        setting = f"Added to `{mode}`" if added else f"Left out of `{mode}`"
        effects.append(Effect(setting=setting, technique=technique, with_it=with_it, without_it=without_it))
    return [effect for effect in effects if effect.with_it.seed == effects[0].with_it.seed]


def _parts(memory_mode: str) -> tuple[str, str, bool]:
    """Mode, technique and whether it is added; no technique for a mode by itself."""
    for separator, added in (("+", True), ("-without-", False)):
        mode, found, technique = memory_mode.partition(separator)
        if found and mode in MEMORY_MODES:
            return mode, technique, added
    return memory_mode, "", True


def _effects_table(effects: Sequence[Effect]) -> str:
    rows = []
    for effect in effects:
        before, after = above_baseline_bytes(effect.without_it), above_baseline_bytes(effect.with_it)
        saved = None if before is None or after is None else as_mib(before - after)
        time_ratio = None
        if effect.with_it.wall_time_s and effect.without_it.wall_time_s:
            time_ratio = effect.with_it.wall_time_s / effect.without_it.wall_time_s
        rows.append(
            [
                effect.technique,
                number(None if before is None else as_mib(before), ".0f"),
                number(None if after is None else as_mib(after), ".0f"),
                number(saved, "+.0f"),
                number(time_ratio, ".2f"),
                number(_difference(effect.with_it, effect.without_it), "+.3f"),
            ]
        )
    headings = ["technique", "without, MiB above baseline", "with, MiB", "saves, MiB", "time", "MRR@10"]
    return markdown(headings, rows)


def _quality_table(results: Sequence[CellResult]) -> str | None:
    rows = []
    ok = [result for result in results if result.status == "ok"]
    by_mode = {(grid_point(result), result.memory_mode): result for result in ok}
    for workload, mode in dict.fromkeys((result.workload, result.memory_mode) for result in ok):
        reference = "standard" if mode in MEMORY_MODES else _parts(mode)[0]
        pairs = [
            (result, by_mode[grid_point(result), reference])
            for result in ok
            if (result.workload, result.memory_mode) == (workload, mode)
            and mode != reference
            and (grid_point(result), reference) in by_mode
        ]
        if len(pairs) < _FEWEST_SEEDS:
            continue
        differences = [value for pair in pairs if (value := _difference(*pair)) is not None]
        low, high = interval_90(differences)
        verdict = "equal within ± 0.01" if low >= -_EQUAL_WITHIN and high <= _EQUAL_WITHIN else "not shown to be equal"
        rows.append(
            [
                workload,
                mode,
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
