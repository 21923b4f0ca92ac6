"""What may be compared: the conditions of a run, and which of them must be the same for what.

The conditions of a run are one flat mapping: its machine, the versions of its packages, its code, its texts and the
settings that no sweep varies. A level names those that must be the same.
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
_MEMORY_TOLERANCE = 0.01
_MACHINE = (
    *("system", "architecture", "processor", "logical_cores", "memory_bytes", "allocator", "huge_pages"),
    # Known to a worker alone: a run that crashed early did not say them.
    *("threads", "device"),
)
_BY_MINOR_VERSION = ("torch", "python", "memray")
_OF_RUN = ("max_steps", "corpus_sha256")
_SETTINGS = ("trainer", "trainer_size", "attention_dropout", "mixed_precision", "memory_limit_bytes")
# What a baseline keeps.
BASELINE_CONDITIONS = (*_MACHINE, *_BY_MINOR_VERSION, *_OF_RUN)
LEVELS: Mapping[Level, Sequence[str]] = MappingProxyType(
    {
        # Where a figure may be compared with a baseline's.
        "anywhere": ("torch", "max_steps"),
        "same interpreter": ("torch", "max_steps", "python", "memray", "system", "architecture", "threads"),
        "same corpus": ("torch", "max_steps", "corpus_sha256"),
        "same machine": ("torch", "max_steps", *_MACHINE),
        # Rounds that a baseline counts as one cell.
        "equal runs": BASELINE_CONDITIONS,
        # Runs that a report makes one figure of, and recorded runs that a resumed session does not repeat.
        "same code": (*_MACHINE, "versions", "source_tree"),
        # Runs that a report shows side by side.
        "same setup": (*_MACHINE, *_SETTINGS, "max_steps", "source_tree"),
    }
)


def conditions_of(result: Result) -> dict[str, Any]:
    """The conditions that a result was taken under, as far as it says them."""
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
    """The conditions of ``level`` that are not the same, as ``threads 2 → 8``; empty: they may be compared.

    ``where_known`` leaves out a condition that one side does not say.
    """
    return [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in LEVELS[level]
        if not (where_known and not (name in before and name in after))
        and not _is_same(name, before.get(name), after.get(name))
    ]


def set_differences(before: Sequence[Result], after: Sequence[Result]) -> list[str]:
    """What two sets of results were not both taken under, as ``processor: A before, B after``."""
    lines = []
    sides = [[conditions_of(result) | result.versions for result in results] for results in (before, after)]
    for name in (*_MACHINE, "torch", "transformers", "python", "corpus_sha256"):
        old, new = (", ".join(sorted({str(conditions.get(name)) for conditions in side})) for side in sides)
        if old != new and name == "corpus_sha256":
            lines.append("corpus_sha256 differs: losses and metrics are of different texts")
        elif old != new:
            lines.append(f"{name}: {old} before, {new} after")
    return lines


def setup_key(result: CellResult) -> str:
    """Equal for runs of the same setup, which a report may show side by side."""
    conditions = conditions_of(result)
    return json.dumps([conditions.get(name) for name in LEVELS["same setup"]], sort_keys=True)


def pair_key(result: CellResult) -> tuple[object, ...]:
    """Equal for runs that differ in nothing but the memory mode and the round."""
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
    """Of each ``key`` the items that were taken on the same code and machine as its newest item.

    For tables that make one figure of several runs. What the newest run does not say, as one that crashed early, the
    newest run that says it decides.
    """
    newest: dict[Hashable, Conditions] = {}
    kept: set[int] = set()
    by_age = sorted(range(len(items)), key=lambda place: run(items[place]).started_at or "")
    for place in reversed(by_age):
        conditions = conditions_of(run(items[place]))
        known = newest.get(key(items[place]), conditions)
        if not differences("same code", known, conditions, where_known=True):
            newest[key(items[place])] = {**conditions, **known}
            kept.add(place)
    return [item for place, item in enumerate(items) if place in kept]


def _is_same(name: str, before: Any, after: Any) -> bool:
    """Virtual machines of one class differ in memory by some hundred KiB."""
    if name == "memory_bytes" and isinstance(before, int) and isinstance(after, int):
        return abs(after - before) <= _MEMORY_TOLERANCE * before
    return bool(before == after)
