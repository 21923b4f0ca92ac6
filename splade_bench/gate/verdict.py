"""The gate: results held against a baseline, rule by rule; nothing that is missing passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splade_bench.errors import ConfigError, one_line
from splade_bench.gate.baseline import CONDITIONS, UPDATE_FLAGS, GatedCell, is_same
from splade_bench.gate.rules import DEFAULT_RULES, Rule, rules_for
from splade_bench.units import format_bytes

_SITES_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """What got worse than its rule allows."""

    cell: str
    metric: str
    """A figure, or ``status`` for a cell that is missing or ended badly."""
    base: str
    head: str
    change: str
    limit: str
    blame: Sequence[str] = ()
    """What grew, a line each."""
    reproduce: str
    """The command that measures this cell alone."""

    @property
    def sentence(self) -> str:
        """``cell metric base -> head (+x %) limit``."""
        change = f" ({self.change})" if self.change else ""
        return f"{one_line(self.cell)}  {self.metric}  {self.base} → {self.head}{change}  limit {self.limit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate found."""

    regressions: Sequence[Regression]
    evaluated: int
    """Rules that could be held against a figure, and cells that ended in another way than before."""
    not_evaluated: Sequence[str]
    """Rules that could not, and why."""
    notes: Sequence[str]
    """New cells, and improvements that the baseline should follow."""

    @property
    def exit_code(self) -> int:
        """0 fine, 1 regression, 3 nothing could be evaluated."""
        if self.regressions:
            return 1
        return 0 if self.evaluated else 3


def check(head: Mapping[str, GatedCell], base: Mapping[str, GatedCell], rules: Sequence[Rule]) -> Verdict:
    """Hold every cell of the baseline against what was measured."""
    regressions: list[Regression] = []
    not_evaluated: list[str] = []
    notes = [f"{one_line(name)}: new, the baseline does not know it" for name in head if name not in base]
    evaluated = 0
    for name, before in base.items():
        after = head.get(name)
        ended = _ended_worse(name, before, after)
        if ended:
            regressions.append(ended)
            evaluated += 1
            continue
        assert after is not None
        if before.status != "ok":
            if after.status == "ok":
                notes.append(f"{one_line(name)}: {before.status} before, ok now; {_FOLLOW}")
            continue
        judged = evaluated
        for rule in rules_for(name, rules):
            metric = rule.metric.name
            failed = after.failed_pass(metric)
            if metric not in before.figures:
                if failed:
                    not_evaluated.append(f"{one_line(name)}  {rule}: {failed}")
                elif metric in after.figures:
                    notes.append(f"{one_line(name)}  {metric}: new, the baseline does not know it")
                continue
            # A pass that failed is a fault wherever it ran, and one run's figure does not make up for another's fault.
            obstacle = None if failed else _obstacle(rule, before, after)
            if obstacle:
                not_evaluated.append(f"{one_line(name)}  {rule}: {obstacle}")
                continue
            evaluated += 1
            if failed or metric not in after.figures:
                regressions.append(_lost(name, rule, before, [failed] if failed else []))
                continue
            values = before.figures[metric], after.figures[metric]
            if rule.is_regression(*values):
                regressions.append(_regression(name, rule, before, after))
            elif rule.is_improvement(*values):
                notes.append(f"{one_line(name)}  {rule.metric.name}: {_change(*values)}; {_FOLLOW}")
        if evaluated == judged:
            not_evaluated.append(f"{one_line(name)}: no rule could be held against it")
    if rules is not DEFAULT_RULES:  # those are for whatever has their figures
        not_evaluated += [
            f"{one_line(str(rule))}: no cell of the baseline has that figure"
            for rule in rules
            if not any(rule.fits(name) and rule.metric.name in cell.figures for name, cell in base.items())
        ]
    return Verdict(regressions=regressions, evaluated=evaluated, not_evaluated=not_evaluated, notes=notes)


_FOLLOW = f"better than the limit is wide: {UPDATE_FLAGS} keeps it"


def _ended_worse(name: str, before: GatedCell, after: GatedCell | None) -> Regression | None:
    """A cell that is missing, or that ended badly; only running out of memory may have been so before."""
    if after is not None and (after.status == "ok" or after.status == before.status == "oom"):
        return None
    status = "missing" if after is None else after.status
    return Regression(
        cell=name,
        metric="status",
        base=before.status,
        head=status,
        change="",
        limit=before.status,
        reproduce=(after or before).reproduce,
    )


def _lost(name: str, rule: Rule, before: GatedCell, reasons: Sequence[str]) -> Regression:
    """A figure that the baseline has and this run does not."""
    metric = rule.metric
    return Regression(
        cell=name,
        metric=metric.name,
        base=metric.text(before.figures[metric.name]),
        head="not measured",
        change="",
        limit=f"measured, for {rule}",
        blame=reasons,
        reproduce=before.reproduce,
    )


def _obstacle(rule: Rule, before: GatedCell, after: GatedCell) -> str | None:
    """Why a rule cannot be evaluated."""
    differing = [
        f"{key} {before.conditions.get(key)} → {after.conditions.get(key)}"
        for key in CONDITIONS[rule.metric.comparable]
        if not is_same(key, before.conditions.get(key), after.conditions.get(key))
    ]
    return f"taken on something else: {one_line(', '.join(differing))}" if differing else None


def _regression(name: str, rule: Rule, before: GatedCell, after: GatedCell) -> Regression:
    metric = rule.metric
    base, head = before.figures[metric.name], after.figures[metric.name]
    return Regression(
        cell=name,
        metric=metric.name,
        base=metric.text(base),
        head=metric.text(head),
        change=_change(base, head),
        limit=f"{metric.text(rule.limit(base))} by {rule}",
        blame=blame(before, after) if metric.in_bytes else (),
        reproduce=after.reproduce,
    )


def require_comparable(
    base: Mapping[str, GatedCell], rules: Sequence[Rule], known_conditions: Mapping[str, Any]
) -> None:
    """Refuse a baseline of which no rule could be evaluated under these conditions, as far as they are known.

    Raises:
        ConfigError: it names what differs.
    """
    differing: dict[str, None] = {}
    for name, cell in base.items():
        for rule in rules_for(name, rules):
            if rule.metric.name not in cell.figures:
                continue
            found = [
                f"{key} {cell.conditions.get(key)} → {known_conditions[key]}"
                for key in CONDITIONS[rule.metric.comparable]
                if key in known_conditions and not is_same(key, cell.conditions.get(key), known_conditions[key])
            ]
            if not found:
                return
            differing |= dict.fromkeys(found)
    reason = ", ".join(differing) or "it has no figure that a rule is about"
    raise ConfigError(f"--memory-baseline: nothing in it can be compared here: {one_line(reason)}")


def blame(before: GatedCell, after: GatedCell) -> list[str]:
    """What grew, largest first: live bytes by category and by phase, the operator at the peak, allocation sites."""
    lines = []
    for what, old, new in (
        ("category", before.live_peak_by_category, after.live_peak_by_category),
        ("phase", before.live_peak_by_phase, after.live_peak_by_phase),
    ):
        grown = {name: new.get(name, 0) - old.get(name, 0) for name in {*old, *new}}
        for name in sorted((name for name in grown if grown[name] > 0), key=lambda name: (-grown[name], name)):
            lines.append(
                f"{what} {one_line(name)}: {format_bytes(old.get(name, 0))} → {format_bytes(new.get(name, 0))} "
                f"(+{grown[name]} bytes)"
            )
    if before.live_peak_operator != after.live_peak_operator:
        lines.append(one_line(f"operator at the peak: {before.live_peak_operator} → {after.live_peak_operator}"))
    sites = {site["site"]: site["size_bytes"] for site in before.memray_top_sites}
    for site in after.memray_top_sites[:_SITES_SHOWN]:
        lines.append(
            f"allocated at {one_line(str(site['site']))}: "
            f"{format_bytes(sites[site['site']]) if site['site'] in sites else 'not among the largest'} → "
            f"{format_bytes(site['size_bytes'])}"
        )
    return lines


def _change(base: float, head: float) -> str:
    return f"{head / base - 1:+.1%}" if base else "from nothing"


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict for people: failures first, each with what grew and how to see it again."""
    lines = []
    for regression in verdict.regressions:
        lines.append(f"REGRESSION  {regression.sentence}")
        lines += [f"    {line}" for line in regression.blame]
        lines.append(f"    reproduce: {one_line(regression.reproduce)}")
    lines += [f"not evaluated  {line}" for line in verdict.not_evaluated]
    lines += [f"note  {line}" for line in verdict.notes]
    summary = [f"{len(verdict.regressions)} regressions", f"{verdict.evaluated} checks"]
    if verdict.not_evaluated:
        summary.append(f"{len(verdict.not_evaluated)} not evaluated")
    return [*lines, ", ".join(summary)]
