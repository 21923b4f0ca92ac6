"""Two sets of results side by side: each cell's figures before and after, worst change first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from splade_bench.results.conditions import set_differences
from splade_bench.results.figures import RECORDED, Figure
from splade_bench.results.records import CallResult, CellResult, Measurement, Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A figure of one cell in both sets: medians over its runs."""

    cell: str
    figure: Figure
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After over before; infinite from nothing to something."""
        if self.before == self.after:
            return 1.0
        return self.after / self.before if self.before else float("inf")

    @property
    def badness(self) -> float:
        """How much worse: 0.1 for a tenth more of what should be small, or a tenth less of what should be large."""
        return self.ratio - 1 if self.figure.larger_is_worse else 1 - self.ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What two sets of results have in common, and what only one of them has."""

    changes: Sequence[Change]
    """Worst first."""
    differences: Sequence[str]
    """Conditions that differ; cells that are in one set only or ended in another way."""


def compare(before: Sequence[Result], after: Sequence[Result]) -> Comparison:
    """Cells and calls of the same name, figure by figure; only runs with status ``ok`` have figures."""
    old, new = _by_name(before), _by_name(after)
    changes = []
    differences = [f"{name}: only in the first file (before)" for name in old.keys() - new.keys()]
    differences += [f"{name}: only in the second file (after)" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        statuses = [", ".join(sorted({run.status for run in runs})) for runs in (old[name], new[name])]
        if statuses[0] != statuses[1]:
            differences.append(f"{name}: {statuses[0]} before, {statuses[1]} after")
        for figure in RECORDED:
            values = _median(old[name], figure), _median(new[name], figure)
            if values[0] is not None and values[1] is not None:
                changes.append(Change(cell=name, figure=figure, before=values[0], after=values[1]))
    changes.sort(key=lambda change: (-change.badness, change.cell, change.figure.name))
    return Comparison(changes=changes, differences=[*set_differences(before, after), *sorted(differences)])


def _by_name(results: Sequence[Result]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for result in results:
        if isinstance(result, CellResult):
            groups.setdefault(result.cell_id, []).append(result)
        elif isinstance(result, CallResult):
            groups.setdefault(result.name, []).append(result)
    return groups


def _median(runs: Sequence[Measurement], figure: Figure) -> float | None:
    values = [value for run in runs if run.status == "ok" and (value := figure(run)) is not None]
    return statistics.median(values) if values else None
