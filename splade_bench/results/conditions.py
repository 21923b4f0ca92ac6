"""What may be compared: the conditions of a run, and which of them must be equal for which purpose.

The conditions of a run are one flat mapping: its machine, package versions, code, texts, and the settings that are not
axes of a sweep. A level is a purpose, and names the conditions that must be equal for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from splade_bench.results.records import CellResult, Measurement, Result

Item = TypeVar("Item")
Conditions = Mapping[str, Any]
Level = Literal["anywhere", "same interpreter", "same corpus", "same machine", "equal runs", "same code", "same setup"]
_MEMORY_TOLERANCE = 100  # a hundredth
_MACHINE = (
    *("system", "architecture", "processor", "logical_cores", "memory_bytes", "allocator", "huge_pages"),
    # Only a worker knows these; they are missing if it crashed early.
    *("threads", "device"),
)
_BY_MINOR_VERSION = ("torch", "python", "memray")
_OF_RUN = ("max_steps", "corpus_sha256")
_SETTINGS = (
    *("trainer", "trainer_size", "attention_dropout", "mixed_precision"),
    *("memory_limit_bytes", "memory_budget_bytes", "processes", "busy_processes"),
)
# A baseline file keeps these.
BASELINE_CONDITIONS = (*_MACHINE, *_BY_MINOR_VERSION, *_OF_RUN)
LEVELS: Mapping[Level, Sequence[str]] = MappingProxyType(
    {
        # Comparing a figure with a baseline's, by figure.
        "anywhere": ("torch", "max_steps"),
        "same interpreter": ("torch", "max_steps", "python", "memray", "system", "architecture", "threads"),
        "same corpus": ("torch", "max_steps", "corpus_sha256"),
        "same machine": ("torch", "max_steps", *_MACHINE),
        # Combining rounds into one cell of a baseline.
        "equal runs": BASELINE_CONDITIONS,
        # Combining runs into one figure of a report, and reusing recorded runs in a resumed session.
        "same code": (*_MACHINE, "versions", "source_tree"),
        # Showing runs side by side in a report.
        "same setup": (*_MACHINE, *_SETTINGS, "max_steps", "source_tree"),
    }
)


def conditions_of(result: Result) -> dict[str, Any]:
    """The conditions of a result, as far as it says them."""
    conditions = {name: result.machine[name] for name in _MACHINE if name in result.machine}
    for name in _BY_MINOR_VERSION:
        version = result.versions.get(name)
        conditions[name] = ".".join(version.split("+")[0].split(".")[:2]) if version else None
    conditions["versions"] = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    conditions["source_tree"] = result.source_tree
    if isinstance(result, Measurement):
        conditions |= {name: getattr(result, name, None) for name in _OF_RUN}
    if isinstance(result, CellResult):
        conditions |= {name: getattr(result, name) for name in _SETTINGS}
    return conditions


def differences(level: Level, before: Conditions, after: Conditions, *, where_known: bool = False) -> list[str]:
    """The conditions of ``level`` that differ, as ``threads 2 → 8``; if there are none, the runs may be compared.

    ``where_known`` skips a condition that one side does not say.
    """
    return [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in LEVELS[level]
        if not (where_known and not (name in before and name in after))
        and not _is_same(name, before.get(name), after.get(name))
    ]


def set_differences(before: Sequence[Result], after: Sequence[Result]) -> list[str]:
    """The conditions in which two sets of results differ, as ``processor: A before, B after``."""
    lines = []
    sides = [[conditions_of(result) | result.versions for result in results] for results in (before, after)]
    for name in (*_MACHINE, "torch", "transformers", "python", "corpus_sha256"):
        old, new = (", ".join(sorted({str(conditions.get(name)) for conditions in side})) for side in sides)
        if old != new and name == "corpus_sha256":
            lines.append("measured on different texts (corpus_sha256): do not compare losses and metrics")
        elif old != new:
            lines.append(f"{name}: {old} before, {new} after")
    return lines


def setup_key(result: CellResult) -> str:
    """Equal for runs that a report may show side by side."""
    conditions = conditions_of(result)
    return json.dumps([conditions.get(name) for name in LEVELS["same setup"]], sort_keys=True)


def pair_key(result: CellResult) -> tuple[object, ...]:
    """Equal for runs that differ only in memory mode and round."""
    return (
        result.workload,
        result.device,
        result.batch_size,
        result.gradient_accumulation_steps,
        result.seed,
        setup_key(result),
    )


def newest_comparable(
    items: Sequence[Item], *, key: Callable[[Item], Hashable], run: Callable[[Item], Result]
) -> list[Item]:
    """For each ``key``, the items with the code and machine of its newest item.

    For tables that combine several runs into one figure. A run that crashed early may not say all conditions: the
    newest run that says one decides it.
    """
    newest: dict[Hashable, Conditions] = {}
    kept: set[int] = set()
    oldest_first = sorted(enumerate(items), key=lambda numbered: run(numbered[1]).started_at or "")
    for number, item in reversed(oldest_first):
        conditions = conditions_of(run(item))
        known = newest.get(key(item), conditions)
        if not differences("same code", known, conditions, where_known=True):
            newest[key(item)] = {**conditions, **known}
            kept.add(number)
    return [item for number, item in enumerate(items) if number in kept]


def _is_same(name: str, before: Any, after: Any) -> bool:
    """Virtual machines of one class differ in memory by some hundred KiB."""
    if name == "memory_bytes" and isinstance(before, int) and isinstance(after, int):
        return abs(after - before) <= before // _MEMORY_TOLERANCE
    return bool(before == after)
