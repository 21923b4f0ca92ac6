"""Two sets of results side by side: what each cell's figures were, what they are, worst change first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splade_bench.results.records import CallResult, CellResult, Measurement, Result
from splade_bench.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure that two runs are compared by."""

    name: str
    """As in a results file; a metric by its own name."""
    text: Callable[[float], str]
    larger_is_worse: bool = True


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


FIGURES: Sequence[Figure] = (
    *(
        Figure(name=name, text=format_bytes)
        for name in (
            *("peak_rss_bytes", "pinned_peak_rss_bytes", "live_peak_bytes", "memray_peak_bytes"),
            *("device_peak_allocated_bytes", "device_peak_reserved_bytes"),
        )
    ),
    *(Figure(name=name, text=_seconds) for name in ("step_time_s", "wall_time_s")),
    Figure(name="final_loss", text=lambda value: f"{value:.4f}"),
    Figure(name="mrr@10", text=lambda value: f"{value:.4f}", larger_is_worse=False),
)


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
    """Cells that are in one set only or ended in another way, and conditions that were not the same."""


def compare(before: Sequence[Result], after: Sequence[Result]) -> Comparison:
    """Cells and calls of the same name, figure by figure; only runs that ended ``ok`` have figures."""
    old, new = _by_name(before), _by_name(after)
    changes = []
    differences = [f"{name}: only in the first" for name in old.keys() - new.keys()]
    differences += [f"{name}: only in the second" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        statuses = [", ".join(sorted({run.status for run in runs})) for runs in (old[name], new[name])]
        if statuses[0] != statuses[1]:
            differences.append(f"{name}: {statuses[0]} before, {statuses[1]} after")
        for figure in FIGURES:
            values = _median(old[name], figure), _median(new[name], figure)
            if values[0] is not None and values[1] is not None:
                changes.append(Change(cell=name, figure=figure, before=values[0], after=values[1]))
    changes.sort(key=lambda change: (-change.badness, change.cell, change.figure.name))
    return Comparison(changes=changes, differences=[*_conditions(before, after), *sorted(differences)])


def _by_name(results: Sequence[Result]) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for result in results:
        if isinstance(result, CellResult):
            found.setdefault(result.cell_id, []).append(result)
        elif isinstance(result, CallResult):
            found.setdefault(result.name, []).append(result)
    return found


def _median(runs: Sequence[Measurement], figure: Figure) -> float | None:
    values = [value for run in runs if run.status == "ok" and (value := run.figure(figure.name)) is not None]
    return statistics.median(values) if values else None


def _conditions(before: Sequence[Result], after: Sequence[Result]) -> list[str]:
    """What the two sets were not taken alike on: times and RSS must then not be compared."""
    found = []
    for name in ("processor", "logical_cores", "memory_bytes", "system", "threads", "device"):
        values = [sorted({str(result.machine.get(name)) for result in results}) for results in (before, after)]
        if values[0] != values[1]:
            found.append(f"machine {name}: {', '.join(values[0])} before, {', '.join(values[1])} after")
    for name in ("torch", "transformers", "python"):
        values = [sorted({str(result.versions.get(name)) for result in results}) for results in (before, after)]
        if values[0] != values[1]:
            found.append(f"{name}: {', '.join(values[0])} before, {', '.join(values[1])} after")
    corpora = [{getattr(result, "corpus_sha256", None) for result in results} for results in (before, after)]
    if corpora[0] != corpora[1]:
        found.append("corpus_sha256 differs: losses and metrics are of different texts")
    return found
