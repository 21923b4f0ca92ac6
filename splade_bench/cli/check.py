"""``splade-bench check``: results compared with a committed baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from splade_bench.cli.arguments import parse, show
from splade_bench.errors import ConfigError, DataError, one_line
from splade_bench.gate.baseline import read_baseline, write_baseline
from splade_bench.gate.cells import gated_cells, newest_sessions, only_in_earlier_sessions
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule
from splade_bench.gate.verdict import check, verdict_lines
from splade_bench.results.records import read_results


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckCommand:
    """Compare results with a baseline.

    It is a regression if a cell is missing or fails in a new way, or a figure is missing or worse than its rule allows.

    Exit codes:
      0  no regression
      1  regression
      2  usage error or bad file
      3  no rule could be evaluated
    """

    results: Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction]
    """Results files. If a cell was run several times, the smallest peak RSS is used."""
    baseline: Path
    """Baseline file, written by --update-baseline."""
    fail_on: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Rules METRIC:LIMIT[:CELLS], such as live_peak_bytes:1% or peak_rss_bytes:5%:base-*. If several rules for
    a figure match a cell, the last one counts. Default: live_peak_bytes:1% peak_rss_bytes:10%+16MiB final_loss:5%
    mrr@10:0.03."""
    update_baseline: bool = False
    """Write the results as the new baseline, without a check."""
    json: bool = False
    """Print one JSON object to standard output."""


def run(arguments: Sequence[str]) -> int:
    """Print the verdict; the exit code."""
    command = parse(CheckCommand, arguments, verb="check")
    # A flag that is given again adds to the earlier one: to replace it would drop rules in silence.
    paths = [path for given in command.results for path in given]
    if not paths:
        raise ConfigError("--results: name at least one results file")
    files = [(path, read_results([path])) for path in paths]
    current = gated_cells([result for _, results in files for result in newest_sessions(results)])
    if not current:
        raise DataError(f"{', '.join(map(str, paths))}: no cell or call to check")
    if command.update_baseline:
        write_baseline(command.baseline, current)
        print(command.baseline)
        return 0
    rules = [parse_rule(rule) for given in command.fail_on for rule in given] or DEFAULT_RULES
    verdict = check(current, read_baseline(command.baseline), rules)
    earlier = [
        f"{one_line(name)}: not measured in the newest session of {path}; the figures of an earlier session are used"
        for path, results in files
        for name in only_in_earlier_sessions(results)
    ]
    verdict = replace(verdict, notes=[*verdict.notes, *earlier])
    show(verdict.to_dict(), "\n".join(verdict_lines(verdict)), as_json=command.json)
    return verdict.exit_code
