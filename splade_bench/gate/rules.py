"""What the gate allows: rules as text, each about one figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from splade_bench.errors import ConfigError
from splade_bench.results.conditions import Conditions, differences
from splade_bench.results.figures import GATED, Figure
from splade_bench.units import parse_bytes

_RELATIVE = re.compile(r"(?P<percent>\d+(?:\.\d+)?)%(?:\+(?P<floor>.+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How much worse a figure may be: more than ``ratio`` of the baseline and more than ``floor`` is a regression."""

    text: str
    """As it was written."""
    figure: Figure
    ratio: float = 0.0
    floor: float = 0.0
    """In the figure's own unit."""
    cells: str = "*"
    """Which cells it is for, as a shell pattern."""

    def fits(self, *names: str) -> bool:
        """Whether it is for a cell of one of these names: a call that was moved has two."""
        return any(fnmatchcase(name, self.cells) for name in names)

    def differing_conditions(
        self, baseline: Conditions, current: Conditions, *, where_known: bool = False
    ) -> list[str]:
        """The conditions that differ, so that its figure cannot be compared."""
        assert self.figure.comparable is not None
        return differences(self.figure.comparable, baseline, current, where_known=where_known)

    def limit(self, baseline: float) -> float:
        """The worst value that is still allowed."""
        allowed = self._allowed(baseline)
        return baseline + allowed if self.figure.larger_is_worse else baseline - allowed

    def is_regression(self, baseline: float, current: float) -> bool:
        """Whether ``current`` is worse than allowed."""
        return self._worse_by(baseline, current) > self._allowed(baseline)

    def is_improvement(self, baseline: float, current: float) -> bool:
        """Whether ``current`` is so much better that the baseline should be updated."""
        return -self._worse_by(baseline, current) > self._allowed(baseline)

    def _allowed(self, baseline: float) -> float:
        return max(self.ratio * abs(baseline), self.floor)

    def _worse_by(self, baseline: float, current: float) -> float:
        return current - baseline if self.figure.larger_is_worse else baseline - current


def parse_rule(text: str) -> Rule:
    """``METRIC:LIMIT`` or ``METRIC:LIMIT:CELLS``.

    METRIC is a figure of :data:`splade_bench.results.figures.GATED`. A limit is ``5%``, ``5%+16MiB`` (both must be
    exceeded), or an amount alone: ``16MiB``, or ``0.03`` for a figure that is not a size. CELLS is a shell pattern of
    cell ids.

    Raises:
        ConfigError: the figure cannot be gated, or the limit cannot be read.
    """
    name, _, rest = text.partition(":")
    limit, _, cells = rest.partition(":")
    figure = GATED.get(name)
    if figure is None:
        raise ConfigError(f"rule {text}: {name!r} cannot be used in a rule; choose from {', '.join(GATED)}")
    amount: Callable[[str], float] = parse_bytes if figure.unit == "bytes" else _number
    match = _RELATIVE.fullmatch(limit)
    try:
        if match:
            ratio, floor = float(match["percent"]) / 100, amount(match["floor"]) if match["floor"] else 0.0
        else:
            ratio, floor = 0.0, amount(limit)
    except ValueError:
        example = "5%+16MiB" if figure.unit == "bytes" else "0.03"
        raise ConfigError(f"rule {text}: {limit!r} is not a limit for {name}; write it as 5% or {example}") from None
    return Rule(text=text, figure=figure, ratio=ratio, floor=floor, cells=cells or "*")


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


DEFAULT_RULES: Sequence[Rule] = tuple(
    map(parse_rule, ("live_peak_bytes:1%", "peak_rss_bytes:10%+16MiB", "final_loss:5%", "mrr@10:0.03"))
)


def rules_for(rules: Sequence[Rule], *names: str) -> list[Rule]:
    """One rule per figure: of those whose pattern fits one of a cell's names, the last one given."""
    return list({rule.figure.name: rule for rule in rules if rule.fits(*names)}.values())
