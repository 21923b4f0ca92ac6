"""The smallest regression that a baseline is sure to notice: what its rules allow, and how much its runs differed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splade_bench.gate.cells import GatedCell
from splade_bench.gate.rules import Rule

_TIMES = "times"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Of one figure of one cell."""

    cell: str
    metric: str
    change: float
    """The smallest change for the worse that is noticed, as a share of the baseline: 0.02 for 2 %."""
    spread_is_known: bool
    """Whether ``change`` includes how much runs differ. A baseline of one run does not know it."""


def sensitivity(name: str, rule: Rule, baseline: GatedCell) -> Sensitivity | None:
    """Of the figure of a rule in a cell of the baseline; None where the baseline is 0 and has no shares.

    A run that is better by chance hides a regression: so what runs differed by adds to what the rule allows.
    """
    figure = rule.figure
    before = baseline.figures[figure.name]
    if not before:
        return None
    is_exact = figure.over_runs is max  # as it says: such a figure does not vary
    known = baseline.spread.get(figure.name, 0.0 if is_exact else None)
    if known is None and figure.probe and figure.probe.spread_limit is not None:
        known = max(figure.probe.spread_limit * before, figure.probe.spread_floor_bytes)
    change = (abs(rule.limit(before) - before) + (known or 0.0)) / abs(before)
    return Sensitivity(cell=name, metric=figure.name, change=change, spread_is_known=known is not None)


def sensitivity_line(found: Sequence[Sensitivity], unjudged: Sequence[str]) -> str:
    """For each metric the change from which on a regression is noticed in the best and the worst cell."""
    parts = []
    for metric in dict.fromkeys(one.metric for one in found):
        of_metric = [one for one in found if one.metric == metric]
        changes = sorted({f"{one.change:.1%}" for one in of_metric}, key=lambda text: float(text[:-1]))
        more = "" if all(one.spread_is_known for one in of_metric) else "more than "
        parts.append(f"{metric} {more}" + (changes[0] if len(changes) == 1 else f"{changes[0]} to {changes[-1]}"))
    is_known = all(one.spread_is_known for one in found)
    note = "" if is_known else " (one run in the baseline does not show how much runs differ)"
    return f"smallest regressions noticed: {', '.join(parts)}{note}; not judged: {', '.join([*unjudged, _TIMES])}"
