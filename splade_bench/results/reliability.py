"""The record of a campaign: what was done to trainings so that they lose something, and how each of them ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from splade_bench.results.result import Int, Result


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityResult(Result):
    """A part of a campaign: one kind of fault, tried many times."""

    campaign: str
    """A key of :data:`splade_bench.report.reliability.CAMPAIGNS`, or that of the page about several processes."""
    fault: str
    """What was done. Unique in its campaign."""
    expected: str
    """What must be seen after each try."""
    tried: Int
    seen: dict[str, Int]
    """How the tries ended -> how many; together they are ``tried``."""
    failures: list[str] = field(default_factory=list)
    """A line for each try that did not end as expected."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """What was measured, in bytes, seconds and shares; null with the reason in a failure."""
    tries: list[dict[str, Any]] = field(default_factory=list)
    """Each try, where the page shows them one by one."""
    seed: Int | None = None
    """Of the random choices."""
    record_type: Literal["reliability"] = "reliability"

    @property
    def passed(self) -> bool:
        """Whether something was tried, each try was judged, and none failed."""
        return self.tried > 0 and self.tried == sum(self.seen.values()) and not self.failures
