"""What the pages' tables have in common: figures of a result, how they are written, and what they were taken on."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from splade_bench.measure.device import UNTESTED_ON_HARDWARE
from splade_bench.report.markdown import escape
from splade_bench.report.page import Block, Table, Text
from splade_bench.results.records import CellResult, Measurement, Result
from splade_bench.units import as_gib, as_mib, format_bytes

MISSING = "—"
# Within so much two MRR are taken for equal.
MRR_EQUAL_WITHIN = 0.01
Figure = Callable[[CellResult], float | None]
Item = TypeVar("Item")


def number(value: float | None, form: str = ".2f") -> str:
    """A figure for a table; a dash where there is none."""
    return MISSING if value is None else format(value, form)


def mib(size_bytes: float | None) -> str:
    """Bytes as whole MiB, for a column whose heading names the unit."""
    return MISSING if size_bytes is None else f"{as_mib(size_bytes):.0f}"


def gib(size_bytes: float | None) -> str:
    """Bytes as GiB, in the same way."""
    return MISSING if size_bytes is None else f"{as_gib(size_bytes):.2f}"


def median_and_range(values: Sequence[float], form: str) -> str:
    """``median (min to max)``, the median alone where all are written alike; a dash for nothing."""
    if not values:
        return MISSING
    middle, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def over_runs(results: Iterable[CellResult], figure: Figure, form: str) -> str:
    """Median and range of a figure over the runs that have it."""
    return median_and_range(figures(results, figure), form)


def figures(results: Iterable[CellResult], figure: Figure) -> list[float]:
    """A figure of each result that has it."""
    return [value for result in results if (value := figure(result)) is not None]


def recorded(field: str) -> Figure:
    """A figure by its field's name in a results file."""
    assert field in CellResult.__dataclass_fields__, field
    return attrgetter(field)


def metric(name: str) -> Figure:
    """A metric after training, by its name in a results file."""
    return lambda result: (result.metrics or {}).get(name)


peak_rss_bytes, wall_time_s, step_time_s = map(recorded, ("peak_rss_bytes", "wall_time_s", "step_time_s"))
mrr_at_10 = metric("mrr@10")


def in_mib(figure: Figure) -> Figure:
    """The same figure in MiB."""

    def scaled(result: CellResult) -> float | None:
        size_bytes = figure(result)
        return None if size_bytes is None else as_mib(size_bytes)

    return scaled


def statuses(runs: Sequence[Measurement]) -> str:
    """How many runs ended in which way: ``3 ok, 1 oom``."""
    counted = Counter(run.status for run in runs)
    return ", ".join(f"{count} {status}" for status, count in counted.items())


def problems(results: Iterable[Measurement], name: Callable[[Any], str]) -> list[str]:
    """A line for each run that did not end well, and for each of its memory passes that failed."""
    lines = []
    for result in results:
        if result.status != "ok":
            why = f": {escape(result.error)}" if result.error else ""
            lines.append(f"{escape(name(result))}: {result.status}{why}")
        lines += [
            f"{escape(name(result))}: {escape(memory_pass)} pass {escape(why)}"
            for memory_pass, why in (result.pass_errors or {}).items()
        ]
    return list(dict.fromkeys(lines))


def above(peak_bytes: int | None, baseline_bytes: int | None) -> int | None:
    """A peak without what was there before; None where either was not measured."""
    return None if peak_bytes is None or baseline_bytes is None else peak_bytes - baseline_bytes


def above_baseline_bytes(result: CellResult) -> int | None:
    """What the cell itself added to its process's memory."""
    return above(result.peak_rss_bytes, result.baseline_rss_bytes)


def queries_per_s(result: CellResult) -> float | None:
    """Queries trained on in a second, their documents with them."""
    if not result.queries_seen or not result.wall_time_s:
        return None
    return result.queries_seen / result.wall_time_s


def conditions(results: Sequence[Result]) -> list[Block]:
    """What the results were taken on, and a warning where their times are no figures of one machine."""
    machines = dict.fromkeys(_machine_line(result) for result in results)
    rows = [["machine", line] for line in machines]
    # What runs no tensors has no threads of torch.
    threads = sorted({result.machine["threads"] for result in results if result.machine.get("threads")})
    rows += [["threads", ", ".join(map(str, threads))]] if threads else []
    rows += [["versions", line] for line in dict.fromkeys(_versions_line(result) for result in results)]
    for name in ("commit", "source_tree", "corpus_sha256"):
        values = dict.fromkeys(getattr(result, name, None) for result in results)
        rows += [[name.replace("_", " "), str(value)[:19]] for value in values if value]
    untested = {getattr(result, "device", None) for result in results} & set(UNTESTED_ON_HARDWARE)
    rows += [["device", f"{name}: untested on hardware by this project"] for name in sorted(filter(None, untested))]
    blocks: list[Block] = [Table(name="conditions", headings=["taken on", ""], rows=rows)]
    if len(machines) > 1:
        blocks.append(Text("**These results were taken on more than one machine: do not compare their times.**"))
    elif len(threads) > 1:
        blocks.append(Text("**These results were taken with more or fewer threads: do not compare their times.**"))
    return blocks


def grid_point(result: CellResult) -> tuple[object, ...]:
    """What two runs must share to be compared, beside the mode."""
    return (
        result.workload,
        result.device,
        result.batch_size,
        result.gradient_accumulation_steps,
        result.seed,
        *surroundings(result),
    )


def surroundings(result: CellResult) -> tuple[object, ...]:
    """Of that: what is no axis of a sweep, and so has to be the same in all that is set side by side."""
    return (
        result.trainer,
        result.trainer_size,
        result.max_steps,
        result.attention_dropout,
        result.mixed_precision,
        result.memory_limit_bytes,
        result.source_tree,
        json.dumps(result.machine, sort_keys=True),
    )


def newest_alike(
    items: Sequence[Item], *, key: Callable[[Item], Hashable], run: Callable[[Item], Result]
) -> list[Item]:
    """Of each ``key`` what was taken as its newest item was: on one machine and device, with its threads and its code.

    For tables that put several runs into one figure.
    """
    place_of: dict[Hashable, object] = {}
    told_at: dict[tuple[Hashable, object], dict[str, Any]] = {}
    for item in sorted(items, key=lambda item: run(item).started_at or ""):
        place = place_of[key(item)] = _place(run(item))
        told_at[key(item), place] = told_at.get((key(item), place), {}) | _told(run(item))
    return [
        item
        for item in items
        if _place(run(item)) == place_of[key(item)]
        and _told(run(item)).items() <= told_at[key(item), place_of[key(item)]].items()
    ]


def _place(result: Result) -> object:
    return _machine_line(result), _versions_line(result), result.source_tree


def _told(result: Result) -> dict[str, Any]:
    """What only a worker knows: one that died without a word did not say it."""
    return {name: result.machine[name] for name in ("threads", "device") if name in result.machine}


def _machine_line(result: Result) -> str:
    machine = result.machine
    memory = machine.get("memory_bytes")
    return (
        f"{machine.get('processor')}, {machine.get('logical_cores')} logical cores, "
        f"{format_bytes(memory) if memory else '?'}, {machine.get('system')} {machine.get('architecture')}"
    )


def _versions_line(result: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
