"""Measured calls that have another name than in the baseline: their test was moved, or its parameters renamed.

The name of a call is its test, a colon, and the call: ``tests/test_index.py::test_it[small]: build(3)``.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from splade_bench.errors import one_line
from splade_bench.gate.cells import GatedCell
from splade_bench.gate.rules import Rule, rules_for
from splade_bench.results.conditions import differences
from splade_bench.results.figures import GATED

_CANDIDATES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Call:
    """The parts of a call's name."""

    file: str
    test: str
    """The test function, with its class."""
    parameters: str
    call: str

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.file).name


# What must be equal in both names, and only once on each side, for a call to be the same one; the strictest first. The
# figures must agree too: a call's text does not say everything, such as the size of a file.
_SAME: Sequence[Callable[[_Call], Hashable]] = (
    lambda call: (call.file_name, call.test, call.parameters, call.call),  # another root folder
    lambda call: (call.file, call.test, call.call),  # other names of the parameters
    lambda call: (call.test, call.parameters, call.call),  # another file
)
# What a call may have in common with one that it has become; the likest first.
_LIKE: Sequence[Callable[[_Call], Hashable]] = (
    lambda call: call.call,
    lambda call: (call.file, call.test),
    lambda call: call.test,
)


def moves(missing: Mapping[str, GatedCell], new: Mapping[str, GatedCell], rules: Sequence[Rule]) -> dict[str, str]:
    """Name in the baseline -> name now, of calls that are the same.

    Args:
        missing: cells of the baseline that were not measured under their names.
        new: measured cells that the baseline does not have.
        rules: what figures of the same call may differ by.
    """
    before, now = _calls(missing), _calls(new)
    found: dict[str, str] = {}
    for key in _SAME:
        old_names, new_names = (_unique(calls, key) for calls in (before, now))
        for same in old_names.keys() & new_names.keys():
            old, name = old_names[same], new_names[same]
            if _agree(missing[old], new[name], rules_for(rules, old, name)):
                found[old] = name
                del before[old], now[name]
    return found


def _agree(baseline: GatedCell, current: GatedCell, rules: Sequence[Rule]) -> bool:
    """Whether figures could be compared, and none is beyond its rule, for worse or for better."""
    if current.status != "ok":  # without figures; if it did not fail before, it is a regression under its new name
        return True
    compared = [
        rule.is_regression(before, after) or rule.is_improvement(before, after)
        for rule in rules
        if (before := baseline.figures.get(rule.figure.name)) is not None
        and (after := current.figures.get(rule.figure.name)) is not None
        and not current.failed_pass(rule.figure)
        and not rule.differing_conditions(baseline.conditions, current.conditions)
    ]
    return baseline.status == "ok" and bool(compared) and not any(compared)


def hints(name: str, cell: GatedCell, new: Mapping[str, GatedCell]) -> list[str]:
    """What a missing call may have become: the new calls with the same call, or else of the same test."""
    call = _parse(name, cell.reproduce)
    if call is None:
        return []
    others = _calls(new)
    likest = ([other for other, its in others.items() if key(its) == key(call)] for key in _LIKE)
    lines = [f"perhaps renamed: {other} is new{_changes(cell, new[other])}" for other in next(filter(None, likest), [])]
    left = len(lines) - _CANDIDATES_SHOWN
    return [*map(one_line, lines[:_CANDIDATES_SHOWN]), *([f"and {left} more"] if left > 0 else [])]


def _changes(baseline: GatedCell, current: GatedCell) -> str:
    """What a missing call and a new one differ in, if they can be compared."""
    compared = [
        (figure, baseline.figures[name], current.figures[name])
        for name, figure in GATED.items()
        if baseline.figures.get(name) is not None
        and current.figures.get(name) is not None
        and figure.comparable is not None
        and not differences(figure.comparable, baseline.conditions, current.conditions)
    ]
    changed = [
        f"{figure.name} {figure.text(before)} → {figure.text(after)}"
        + (f" ({after / before - 1:+.1%})" if before else "")
        for figure, before, after in compared
        if before != after
    ]
    if changed:
        return f", with {', '.join(changed)}"
    return ", with the same figures" if compared else ""


def names_in(test_ids: Iterable[str], baseline: Mapping[str, GatedCell]) -> list[str]:
    """How names of calls in these tests begin, and those that the baseline's calls have if they are moved there."""
    calls = {"", *(call.call for call in _calls(baseline).values())}
    return [f"{test_id}: {call}" for test_id in test_ids for call in calls]


def _calls(cells: Mapping[str, GatedCell]) -> dict[str, _Call]:
    parsed = ((name, _parse(name, cell.reproduce)) for name, cell in cells.items())
    return {name: call for name, call in parsed if call is not None}


@lru_cache(maxsize=2**14)  # it is asked for once for each pair of a missing and a new name
def _parse(name: str, reproduce: str) -> _Call | None:
    """The parts of a call's name; None for a cell, whose name says its settings."""
    try:
        program, test_id = shlex.split(reproduce)
    except ValueError:  # more words, as for a cell, or a file that was edited
        return None
    if program != "pytest" or not name.startswith(f"{test_id}: "):
        return None
    file, _, case = test_id.partition("::")
    test, _, parameters = case.partition("[")
    return _Call(file, test, parameters, name.removeprefix(f"{test_id}: "))


def _unique(calls: Mapping[str, _Call], key: Callable[[_Call], Hashable]) -> dict[Hashable, str]:
    count = Counter(map(key, calls.values()))
    return {key(call): name for name, call in calls.items() if count[key(call)] == 1}
