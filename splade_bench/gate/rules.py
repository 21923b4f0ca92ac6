"""What the gate allows: rules as text, and which figure each is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal

from splade_bench.errors import ConfigError
from splade_bench.units import format_bytes, parse_bytes

Conditions = Literal["anywhere", "same interpreter", "same machine", "same corpus"]
_RELATIVE = re.compile(r"(?P<percent>\d+(?:\.\d+)?)%(?:\+(?P<floor>.+))?")
_PERCENT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A figure that can be gated."""

    name: str
    """As in a results file."""
    comparable: Conditions
    """Where a figure taken may be held against one of a baseline."""
    larger_is_worse: bool = True
    in_bytes: bool = True
    memory_pass: str | None = None
    """Of the passes beside the timed one, that which takes it."""

    def text(self, value: float) -> str:
        """The value as people write it."""
        return f"{format_bytes(value)} ({value:.0f} bytes)" if self.in_bytes else f"{value:.4f}"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(name="live_peak_bytes", comparable="anywhere", memory_pass="live"),
            Metric(name="planned_live_peak_bytes", comparable="anywhere", memory_pass="plan"),
            Metric(name="memray_peak_bytes", comparable="same interpreter", memory_pass="heap"),
            Metric(name="pinned_peak_rss_bytes", comparable="same machine", memory_pass="pinned"),
            Metric(name="peak_rss_bytes", comparable="same machine"),
            Metric(name="device_peak_allocated_bytes", comparable="same machine"),
            Metric(name="device_peak_reserved_bytes", comparable="same machine"),
            Metric(name="final_loss", comparable="same corpus", in_bytes=False),
            Metric(name="mrr@10", comparable="same corpus", larger_is_worse=False, in_bytes=False),
        )
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How much worse a figure may be: more than ``ratio`` of the baseline and more than ``floor`` is a regression."""

    text: str
    """As it was written."""
    metric: Metric
    ratio: float = 0.0
    floor: float = 0.0
    """In the figure's own unit."""
    cells: str = "*"
    """Which cells it is for, as a shell pattern."""

    def fits(self, cell: str) -> bool:
        """Whether it is for a cell of this name."""
        return fnmatchcase(cell, self.cells)

    def worse_by(self, base: float, head: float) -> float:
        """How much worse ``head`` is, in the figure's own unit; negative: better."""
        return head - base if self.metric.larger_is_worse else base - head

    def limit(self, base: float) -> float:
        """The worst value that is still allowed."""
        allowed = max(self.ratio * abs(base), self.floor)
        return base + allowed if self.metric.larger_is_worse else base - allowed

    def is_regression(self, base: float, head: float) -> bool:
        """Whether ``head`` is worse than allowed."""
        return self.worse_by(base, head) > max(self.ratio * abs(base), self.floor)

    def is_improvement(self, base: float, head: float) -> bool:
        """Whether ``head`` is so much better that the baseline should follow."""
        return -self.worse_by(base, head) > max(self.ratio * abs(base), self.floor)

    def __str__(self) -> str:
        return self.text


def parse_rule(text: str) -> Rule:
    """``METRIC:LIMIT`` or ``METRIC:LIMIT:CELLS``.

    A limit is ``5%``, ``5%+16MiB`` (both must be exceeded), or an amount alone: ``16MiB``, or ``0.03`` for a figure
    that is no size. CELLS is a shell pattern of cell ids.

    Raises:
        ConfigError: no such metric, or a limit that cannot be read.
    """
    name, _, rest = text.partition(":")
    limit, _, cells = rest.partition(":")
    metric = METRICS.get(name)
    if metric is None:
        raise ConfigError(f"rule {text}: {name!r} is no figure to gate; choose from {', '.join(METRICS)}")
    amount: Callable[[str], float] = parse_bytes if metric.in_bytes else _number
    match = _RELATIVE.fullmatch(limit)
    try:
        if match:
            ratio, floor = float(match["percent"]) / _PERCENT, amount(match["floor"]) if match["floor"] else 0.0
        else:
            ratio, floor = 0.0, amount(limit)
    except ValueError:
        example = "5%+16MiB" if metric.in_bytes else "0.03"
        raise ConfigError(f"rule {text}: {limit!r} is no limit for {name}; write it as 5% or {example}") from None
    return Rule(text=text, metric=metric, ratio=ratio, floor=floor, cells=cells or "*")


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


DEFAULT_RULES: Sequence[Rule] = tuple(
    map(parse_rule, ("live_peak_bytes:1%", "peak_rss_bytes:10%+16MiB", "final_loss:5%", "mrr@10:0.03"))
)


def rules_for(cell: str, rules: Sequence[Rule]) -> list[Rule]:
    """One rule a figure: of those whose pattern fits the cell, the last that was given."""
    chosen = {rule.metric.name: rule for rule in rules if rule.fits(cell)}
    return list(chosen.values())
