"""The gate says how small a regression it would have noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from gated import NAME, cells, make_result
from results import MIB

from splade_bench.errors import DataError
from splade_bench.gate.baseline import read_baseline, write_baseline
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule
from splade_bench.gate.verdict import check, verdict_lines

PEAKS_MIB = (1500, 1530, 1515)
ROUNDS = [make_result(round=number, peak_rss_bytes=size * MIB) for number, size in enumerate(PEAKS_MIB, 1)]


def test_the_output_says_what_is_noticed_and_what_is_not_judged() -> None:
    baseline = cells(make_result(memray_peak_bytes=5 * MIB))

    lines = verdict_lines(check(cells(make_result(memray_peak_bytes=5 * MIB)), baseline, DEFAULT_RULES))

    assert lines[-2] == (
        "smallest regressions noticed: live_peak_bytes 1.0%, peak_rss_bytes more than 10.0%, "
        "final_loss more than 5.0%, mrr@10 more than 10.0% "
        "(one run in the baseline does not show how much runs differ); "
        "not judged: memray_peak_bytes, times"
    )


def test_cells_that_differ_have_a_range_and_exact_figures_need_one_run() -> None:
    two = cells(make_result(), make_result(memory_mode="article", live_peak_bytes=100 * MIB))

    lines = verdict_lines(check(two, two, [parse_rule("live_peak_bytes:2MiB")]))

    assert lines[-2].startswith("smallest regressions noticed: live_peak_bytes 0.2% to 2.0%; not judged: final_loss,")


def test_what_runs_differed_by_adds_to_what_the_rule_allows() -> None:
    verdict = check(cells(*ROUNDS), cells(*ROUNDS), [parse_rule("peak_rss_bytes:10%")])

    (found,) = verdict.sensitivities
    assert (found.cell, found.metric, found.spread_is_known) == (NAME, "peak_rss_bytes", True)
    assert found.change == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("figure", "change"),
    [("live_peak_bytes", 0.01), ("peak_rss_bytes", 0.1), ("final_loss", 0.05), ("mrr@10", 0.1)],
)
def test_two_percent_are_noticed_or_said_to_be_too_little(figure: str, change: float) -> None:
    worse = make_result(
        live_peak_bytes=1020 * MIB, peak_rss_bytes=1530 * MIB, final_loss=2.04, metrics={"mrr@10": 0.294}
    )

    verdict = check(cells(worse), cells(), DEFAULT_RULES)

    (found,) = (one for one in verdict.sensitivities if one.metric == figure)
    assert found.change == pytest.approx(change)
    noticed = figure in [regression.metric for regression in verdict.regressions]
    assert noticed == (found.change < 0.02)


def test_a_baseline_keeps_what_its_runs_differed_by(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, cells(*ROUNDS))

    assert read_baseline(path)[NAME].spread["peak_rss_bytes"] == 30 * MIB
    path.write_text(path.read_text().replace(f'"peak_rss_bytes": {30 * MIB}', '"peak_rss_bytes": -1'))
    with pytest.raises(DataError, match="peak_rss_bytes -1 is out of range"):
        read_baseline(path)


def test_nothing_compared_is_nothing_noticed() -> None:
    lines = verdict_lines(check(cells(), cells(), [parse_rule("memray_peak_bytes:1%")]))

    assert not any("smallest" in line for line in lines)
    assert check(cells(make_result(live_peak_bytes=0)), cells(make_result(live_peak_bytes=0)), DEFAULT_RULES).evaluated


@pytest.mark.parametrize("now", [pytest.param(0, id="was-0"), pytest.param(None, id="lost")])
def test_a_figure_that_was_judged_without_a_share_is_not_said_to_be_unjudged(now: int | None) -> None:
    rules = [*DEFAULT_RULES, parse_rule("memray_peak_bytes:1MiB")]

    verdict = check(cells(make_result(memray_peak_bytes=now)), cells(make_result(memray_peak_bytes=0)), rules)

    assert "memray_peak_bytes" not in [one.metric for one in verdict.sensitivities]
    assert verdict.unjudged == []
    assert verdict_lines(verdict)[-2].endswith("; not judged: times")
