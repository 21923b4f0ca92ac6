"""The gate: results compared with a baseline, rule by rule; anything missing fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from splade_bench.errors import ConfigError, one_line
from splade_bench.gate.baseline import UPDATE_FLAGS
from splade_bench.gate.cells import GatedCell
from splade_bench.gate.moves import hints, moves, names_in
from splade_bench.gate.rules import DEFAULT_RULES, Rule, rules_for
from splade_bench.gate.sensitivity import Sensitivity, sensitivity, sensitivity_line
from splade_bench.results.conditions import Conditions
from splade_bench.results.figures import GATED, Figure, peak_rss_bytes
from splade_bench.units import format_bytes

_SITES_SHOWN = 3
_UNFIT = "has a name that fits"
_UPDATE_HINT = f"to make this the new baseline, run with {UPDATE_FLAGS}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """A figure that is worse than its rule allows, or a cell that is missing or newly fails."""

    cell: str
    metric: str
    """A figure, or ``status`` for a cell that is missing or failed."""
    baseline: str
    current: str
    change: str = ""
    limit: str
    blame: Sequence[str] = ()
    """What grew, one line each."""
    reproduce: str
    """The command that measures this cell alone."""

    @property
    def sentence(self) -> str:
        """``cell metric baseline → current (+x %) limit X (rule RULE)``."""
        change = f" ({self.change})" if self.change else ""
        return f"{one_line(self.cell)}  {self.metric}  {self.baseline} → {self.current}{change}  {self.limit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of the gate, or of one rule and cell."""

    regressions: Sequence[Regression] = ()
    evaluated: int = 0
    """Rules that were compared with a figure, and cells that ended in another way than before."""
    not_evaluated: Sequence[str] = ()
    """Rules that could not be evaluated, each with the reason."""
    notes: Sequence[str] = ()
    """New cells, and improvements after which the baseline should be updated."""
    sensitivities: Sequence[Sensitivity] = ()
    """For each figure that was compared, the smallest regression that is noticed."""
    judged: Sequence[str] = ()
    """Figures that a rule compared, or that it needs and were lost."""
    unjudged: Sequence[str] = ()
    """Figures of the baseline that no rule judged."""

    @property
    def exit_code(self) -> int:
        """0 fine, 1 regression, 3 nothing could be evaluated."""
        if self.regressions:
            return 1
        return 0 if self.evaluated else 3

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON, where a regression's two values are called ``base`` and ``head``."""
        record = asdict(self) | {"exit_code": self.exit_code}
        for regression in record["regressions"]:
            regression |= {"base": regression.pop("baseline"), "head": regression.pop("current")}
        return record


def check(current: Mapping[str, GatedCell], baseline: Mapping[str, GatedCell], rules: Sequence[Rule]) -> Verdict:
    """Compare every cell of the baseline with its current measurement; a call keeps its baseline if it was moved."""
    missing = {name: cell for name, cell in baseline.items() if name not in current}
    moved = moves(missing, {name: cell for name, cell in current.items() if name not in baseline}, rules)
    new = {name: cell for name, cell in current.items() if name not in baseline and name not in moved.values()}
    notes = [f"{one_line(f'{now}: moved, {before} in the baseline')}; {_UPDATE_HINT}" for before, now in moved.items()]
    notes += [f"{one_line(name)}: new, not in the baseline" for name in new]
    unused = [
        f"{one_line(rule.text)}: no cell of the baseline {'has that figure' if _fits_any(rule, baseline) else _UNFIT}"
        for rule in (rules if rules is not DEFAULT_RULES else ())  # the defaults apply to whatever has their figures
        if not any(
            rule.figure.name in cell.figures and rule.fits(name, moved.get(name, name))
            for name, cell in baseline.items()
        )
    ]
    judged = [
        _judge_cell(now, cell, current[now], rules_for(rules, name, now))
        if (now := moved.get(name, name)) in current
        else Verdict(regressions=[_missing(name, cell, new)], evaluated=1)
        for name, cell in baseline.items()
    ]
    verdict = _sum([Verdict(notes=notes), *judged, Verdict(not_evaluated=unused)])
    recorded = {metric for cell in baseline.values() for metric in cell.figures}
    return replace(verdict, unjudged=sorted(recorded.difference(verdict.judged)))


def _sum(verdicts: Sequence[Verdict]) -> Verdict:
    return Verdict(
        regressions=[regression for verdict in verdicts for regression in verdict.regressions],
        evaluated=sum(verdict.evaluated for verdict in verdicts),
        not_evaluated=[line for verdict in verdicts for line in verdict.not_evaluated],
        notes=[line for verdict in verdicts for line in verdict.notes],
        sensitivities=[one for verdict in verdicts for one in verdict.sensitivities],
        judged=list(dict.fromkeys(metric for verdict in verdicts for metric in verdict.judged)),
    )


def _missing(name: str, baseline: GatedCell, new: Mapping[str, GatedCell]) -> Regression:
    return _wrong_status(name, baseline, "missing", baseline.reproduce, blame=hints(name, baseline, new))


def _wrong_status(
    name: str, baseline: GatedCell, status: str, reproduce: str, *, blame: Sequence[str] = ()
) -> Regression:
    expected = f"(expected: {baseline.status})"
    return Regression(
        cell=name,
        metric="status",
        baseline=baseline.status,
        current=status,
        limit=expected,
        blame=blame,
        reproduce=reproduce,
    )


def _judge_cell(name: str, baseline: GatedCell, current: GatedCell, rules: Sequence[Rule]) -> Verdict:
    """A cell that failed is a regression; only running out of memory may be in the baseline too."""
    if current.status != "ok" and not current.status == baseline.status == "oom":
        failed = _wrong_status(name, baseline, current.status, current.reproduce)
        return Verdict(regressions=[failed], evaluated=1)
    if baseline.status != "ok":
        improved = f"{one_line(name)}: {baseline.status} before, ok now; {_UPDATE_HINT}"
        return Verdict(notes=[improved] if current.status == "ok" else [])
    judged = [_judge(name, rule, baseline, current) for rule in rules]
    judged.append(Verdict(notes=_child_processes(name, baseline, current)))
    if not any(verdict.evaluated for verdict in judged):
        judged.append(Verdict(not_evaluated=[f"{one_line(name)}: no rule could be evaluated"]))
    return _sum(judged)


def _child_processes(name: str, baseline: GatedCell, current: GatedCell) -> list[str]:
    """Which figures of a call leave out the memory of its child processes."""
    if not current.child_processes:
        return []
    before = "" if baseline.child_processes == current.child_processes else f" ({baseline.child_processes} before)"
    sizes = [name for name in current.figures if GATED[name].unit == "bytes" and name != peak_rss_bytes.name]
    blind = f", not {' and '.join(sizes)}" if sizes else ""
    counted = f"only {peak_rss_bytes.name} counts their memory, sampled{blind}"
    return [f"{one_line(name)}: child processes: {current.child_processes}{before}; {counted}"]


def _judge(name: str, rule: Rule, baseline: GatedCell, current: GatedCell) -> Verdict:
    """A rule about a cell that ended well before and now."""
    figure, line = rule.figure, one_line(name)
    before, after = baseline.figures.get(figure.name), current.figures.get(figure.name)
    failed = current.failed_pass(figure)
    if before is None:
        if failed:
            return Verdict(not_evaluated=[f"{line}  {rule.text}: {failed}"])
        return Verdict(notes=[] if after is None else [f"{line}  {figure.name}: new, not in the baseline"])
    # A failed pass is a fault on any machine, and the figure of another run does not make up for it.
    if not failed and (differing := rule.differing_conditions(baseline.conditions, current.conditions)):
        conditions = one_line(", ".join(differing))
        return Verdict(not_evaluated=[f"{line}  {rule.text}: taken under other conditions: {conditions}"])
    lost = Regression(
        cell=name,
        metric=figure.name,
        baseline=_exact(figure, before),
        current="not measured",
        limit=f"({rule.text} needs it)",
        blame=[failed] if failed else [],
        reproduce=current.reproduce or baseline.reproduce,
    )
    if failed or after is None:
        return Verdict(regressions=[lost], evaluated=1, judged=[figure.name])
    change = f"{after / before - 1:+.1%}" if before else "was 0"
    found = sensitivity(name, rule, baseline)
    compared = Verdict(evaluated=1, sensitivities=[found] if found else [], judged=[figure.name])
    if rule.is_regression(before, after):
        worse = replace(
            lost,
            current=_exact(figure, after),
            change=change,
            limit=f"limit {_exact(figure, rule.limit(before))} (rule {rule.text})",
            blame=blame(baseline, current) if figure.unit == "bytes" else (),
        )
        return replace(compared, regressions=[worse])
    improved = f"{line}  {figure.name}: {change}, improved by more than the rule's limit; {_UPDATE_HINT}"
    return replace(compared, notes=[improved] if rule.is_improvement(before, after) else [])


def require_comparable(baseline: Mapping[str, GatedCell], rules: Sequence[Rule], known: Conditions) -> None:
    """Refuse a baseline with which nothing could be compared under these conditions, as far as they are known.

    Patterns of rules are left out: one may fit the new name of a call that was moved.

    Raises:
        ConfigError: it names what differs.
    """
    differing: dict[str, None] = {}
    for cell in baseline.values():
        for rule in rules:
            if rule.figure.name in cell.figures:
                lines = rule.differing_conditions(cell.conditions, known, where_known=True)
                if not lines:
                    return
                differing |= dict.fromkeys(lines)
    reason = f"cannot be compared on this machine: {one_line(', '.join(differing))}"
    nothing = "has nothing to compare: none of its figures has a rule"
    raise ConfigError(f"--memory-baseline: this baseline {reason if differing else nothing}")


def require_cells(baseline: Mapping[str, GatedCell], rules: Sequence[Rule], test_ids: Sequence[str]) -> None:
    """Refuse a rule that can judge nothing: its CELLS fit no name in the baseline, nor one in these tests.

    Raises:
        ConfigError: it names the rule, and a name in the baseline.
    """
    for rule in rules:
        if not _fits_any(rule, baseline) and not rule.fits(*names_in(test_ids, baseline)):
            first, others = next(iter(baseline)), len(baseline) - 1
            raise ConfigError(
                f"--memory-fail-on {one_line(rule.text)}: no cell of the baseline {_UNFIT} {rule.cells}; it has "
                + one_line(f"{first} and {others} more" if others else first)
            )


def _fits_any(rule: Rule, names: Iterable[str]) -> bool:
    return any(map(rule.fits, names))


def _exact(figure: Figure, value: float) -> str:
    return f"{figure.text(value)} ({value:.0f} bytes)" if figure.unit == "bytes" else figure.text(value)


def blame(baseline: GatedCell, current: GatedCell) -> list[str]:
    """What grew, largest first: live bytes by category and by phase, the operator at the peak, allocation sites."""
    lines = [
        *_growth("category", baseline.live_peak_by_category, current.live_peak_by_category),
        *_growth("phase", baseline.live_peak_by_phase, current.live_peak_by_phase),
    ]
    if baseline.live_peak_operator != current.live_peak_operator:
        lines.append(f"operator at the peak: {baseline.live_peak_operator} → {current.live_peak_operator}")
    sizes = {site["site"]: format_bytes(site["size_bytes"]) for site in baseline.memray_top_sites}
    for site in current.memray_top_sites[:_SITES_SHOWN]:
        before = sizes.get(site["site"], "not among the largest")
        lines.append(f"allocated at {site['site']}: {before} → {format_bytes(site['size_bytes'])}")
    return [one_line(line) for line in lines]


def _growth(what: str, baseline: Mapping[str, int], current: Mapping[str, int]) -> list[str]:
    grown = {name: current.get(name, 0) - baseline.get(name, 0) for name in {*baseline, *current}}
    return [
        f"{what} {name}: {format_bytes(baseline.get(name, 0))} → {format_bytes(current.get(name, 0))} (+{size} bytes)"
        for name, size in sorted(grown.items(), key=lambda item: (-item[1], item[0]))
        if size > 0
    ]


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict for people: failures first, each with what grew and how to measure it again."""
    lines = []
    for regression in verdict.regressions:
        lines.append(f"REGRESSION  {regression.sentence}")
        lines += [f"    {line}" for line in regression.blame]
        lines.append(f"    reproduce: {one_line(regression.reproduce)}")
    lines += [f"not evaluated  {line}" for line in verdict.not_evaluated]
    lines += [f"note  {line}" for line in verdict.notes]
    if verdict.sensitivities:
        lines.append(sensitivity_line(verdict.sensitivities, verdict.unjudged))
    summary = [f"regressions: {len(verdict.regressions)}", f"figures checked: {verdict.evaluated}"]
    if verdict.not_evaluated:
        summary.append(f"not evaluated: {len(verdict.not_evaluated)}")
    return [*lines, ", ".join(summary)]
