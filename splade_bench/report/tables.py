"""Results as rows and columns, and rows as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from splade_bench.measure.device import UNTESTED_ON_HARDWARE
from splade_bench.results import CellResult, Result
from splade_bench.units import as_mib, format_bytes, one_line

MISSING = "—"
REFERENCE_MODE = "standard"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how a result fills it."""

    heading: str
    text: Callable[[CellResult], str]


def number(value: float | None, form: str = ".2f") -> str:
    """A figure for a table; a dash where there is none."""
    return MISSING if value is None else format(value, form)


def mib(size_bytes: float | None) -> str:
    """Bytes as whole MiB, for a column whose heading names the unit."""
    return MISSING if size_bytes is None else f"{as_mib(size_bytes):.0f}"


def above_baseline_bytes(result: CellResult) -> int | None:
    """What the cell itself added to its process's memory."""
    if result.peak_rss_bytes is None or result.baseline_rss_bytes is None:
        return None
    return result.peak_rss_bytes - result.baseline_rss_bytes


def _metric(result: CellResult, name: str) -> float | None:
    return (result.metrics or {}).get(name)


def _mrr_change(result: CellResult) -> str:
    before = (result.metrics_before or {}).get("mrr@10")
    return f"{number(before, '.3f')} → {number(_metric(result, 'mrr@10'), '.3f')}"


CELL_COLUMNS = (
    Column("device", lambda result: result.device),
    Column("batch", lambda result: str(result.batch_size)),
    Column("accumulation", lambda result: str(result.gradient_accumulation_steps)),
    Column("mode", lambda result: result.memory_mode),
    Column("seed", lambda result: str(result.seed)),
    Column("status", lambda result: result.status),
    Column("optimizer steps", lambda result: number(result.optimizer_steps, "d")),
    Column("time, s", lambda result: number(result.wall_time_s, ".1f")),
    Column("queries/s", lambda result: number(_queries_per_s(result), ".1f")),
    Column("peak RSS, MiB", lambda result: mib(result.peak_rss_bytes)),
    Column("above baseline, MiB", lambda result: mib(above_baseline_bytes(result))),
    Column("memray, MiB", lambda result: mib(result.memray_peak_bytes)),
    Column("final loss", lambda result: number(result.final_loss, ".3f")),
    Column("validation loss", lambda result: number(result.validation_loss, ".3f")),
    Column("MRR@10", _mrr_change),
    Column(
        "active dims q / d",
        lambda result: (
            f"{number(_metric(result, 'query_active_dims'), '.0f')} / "
            f"{number(_metric(result, 'document_active_dims'), '.0f')}"
        ),
    ),
)


def cell_table(results: Sequence[CellResult]) -> str:
    """One row a result, in the order given."""
    rows = [[column.text(result) for column in CELL_COLUMNS] for result in results]
    return markdown([column.heading for column in CELL_COLUMNS], rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeComparison:
    """A mode against the reference mode, over the grid points that were measured in both."""

    memory_mode: str
    pairs: int
    peak_ratios: Sequence[float]
    above_baseline_ratios: Sequence[float]
    time_ratios: Sequence[float]
    mrr_differences: Sequence[float]


def compare_modes(results: Sequence[CellResult]) -> list[ModeComparison]:
    """Each mode's ratios to ``standard``, pair by pair: the same grid point and seed, machine and source tree."""
    ok = [result for result in results if result.status == "ok"]
    reference = {grid_point(result): result for result in ok if result.memory_mode == REFERENCE_MODE}
    comparisons = []
    for mode in dict.fromkeys(result.memory_mode for result in ok):
        pairs = [
            (result, reference[grid_point(result)])
            for result in ok
            if result.memory_mode == mode and grid_point(result) in reference
        ]
        if pairs:
            comparisons.append(
                ModeComparison(
                    memory_mode=mode,
                    pairs=len(pairs),
                    peak_ratios=_ratios(pairs, lambda result: result.peak_rss_bytes),
                    above_baseline_ratios=_ratios(pairs, above_baseline_bytes),
                    time_ratios=_ratios(pairs, lambda result: result.wall_time_s),
                    mrr_differences=[
                        after - other
                        for result, standard in pairs
                        if (after := _metric(result, "mrr@10")) is not None
                        and (other := _metric(standard, "mrr@10")) is not None
                    ],
                )
            )
    return comparisons


def comparison_table(comparisons: Sequence[ModeComparison]) -> str:
    """Medians with their range, as multiples of ``standard``."""
    headings = [
        "mode",
        "pairs",
        f"peak RSS ÷ {REFERENCE_MODE}",
        f"above baseline ÷ {REFERENCE_MODE}",
        f"time ÷ {REFERENCE_MODE}",
        f"MRR@10 − {REFERENCE_MODE}",
    ]
    rows = [
        [
            comparison.memory_mode,
            str(comparison.pairs),
            median_and_range(comparison.peak_ratios, ".2f"),
            median_and_range(comparison.above_baseline_ratios, ".2f"),
            median_and_range(comparison.time_ratios, ".2f"),
            median_and_range(comparison.mrr_differences, "+.3f"),
        ]
        for comparison in comparisons
    ]
    return markdown(headings, rows)


def median_and_range(values: Sequence[float], form: str) -> str:
    """``median (min to max)``; a dash for nothing."""
    if not values:
        return MISSING
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table whose cells cannot break out of it."""
    escaped = [[escape(text) for text in row] for row in rows]
    return tabulate(escaped, headers=headings, tablefmt="github", disable_numparse=True)


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = one_line(text)
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def conditions(results: Sequence[Result]) -> str:
    """What the results were taken on, and a warning where that is more than one machine."""
    machines = dict.fromkeys(_machine_line(result) for result in results)
    rows = [["machine", line] for line in machines]
    rows += [["versions", line] for line in dict.fromkeys(_versions_line(result) for result in results)]
    for name in ("commit", "source_tree", "corpus_sha256"):
        values = dict.fromkeys(getattr(result, name, None) for result in results)
        rows += [[name.replace("_", " "), str(value)[:19]] for value in values if value]
    untested = {getattr(result, "device", None) for result in results} & set(UNTESTED_ON_HARDWARE)
    rows += [["device", f"{name}: untested on hardware by this project"] for name in sorted(filter(None, untested))]
    warning = "\n**These results were taken on more than one machine: do not compare their times.**\n"
    return f"{markdown(['taken on', ''], rows)}\n{warning if len(machines) > 1 else ''}"


def grid_point(result: CellResult) -> tuple[object, ...]:
    """What two runs must share to be compared, beside the mode."""
    return (
        result.workload,
        result.device,
        result.batch_size,
        result.gradient_accumulation_steps,
        result.max_steps,
        result.seed,
        result.attention_dropout,
        result.mixed_precision,
        result.memory_limit_bytes,
        result.source_tree,
        json.dumps(result.machine, sort_keys=True),
    )


def _ratios(
    pairs: Sequence[tuple[CellResult, CellResult]], figure: Callable[[CellResult], float | None]
) -> list[float]:
    figures = [(figure(result), figure(standard)) for result, standard in pairs]
    return [value / other for value, other in figures if value is not None and other]


def _queries_per_s(result: CellResult) -> float | None:
    if not result.queries_seen or not result.wall_time_s:
        return None
    return result.queries_seen / result.wall_time_s


def _machine_line(result: Result) -> str:
    machine = result.machine
    memory = machine.get("memory_bytes")
    return (
        f"{machine.get('processor')}, {machine.get('logical_cores')} logical cores, "
        f"{machine.get('threads', '?')} threads, {format_bytes(memory) if memory else '?'}, "
        f"{machine.get('system')} {machine.get('architecture')}"
    )


def _versions_line(result: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
