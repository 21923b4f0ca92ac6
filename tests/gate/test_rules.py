"""Rules as text: what each allows, and for which cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from results import MIB

from splade_bench.cli import check as check_command
from splade_bench.errors import ConfigError
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule, rules_for


def test_the_guide_and_the_help_name_the_default_rules(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "memory-gate.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        check_command.run(["--help"])
    help_text = capsys.readouterr().out

    for rule in DEFAULT_RULES:
        assert rule.text in guide
        assert rule.text in help_text


@pytest.mark.parametrize(
    ("text", "baseline", "worst_allowed"),
    [
        ("live_peak_bytes:1%", 1000, 1010),
        ("live_peak_bytes:0%", 1000, 1000),
        ("peak_rss_bytes:10%+16MiB", 100 * MIB, 116 * MIB),
        ("peak_rss_bytes:10%+16MiB", 1000 * MIB, 1100 * MIB),
        ("memray_peak_bytes:4096", 1000, 5096),
        ("final_loss:5%", 2.0, 2.1),
        ("mrr@10:0.03", 0.3, 0.27),
    ],
)
def test_a_rule_allows_its_limit_and_nothing_beyond(text: str, baseline: float, worst_allowed: float) -> None:
    rule = parse_rule(text)
    step = (1 if rule.figure.unit == "bytes" else 0.001) * (1 if rule.figure.larger_is_worse else -1)

    assert rule.limit(baseline) == pytest.approx(worst_allowed)
    assert not rule.is_regression(baseline, worst_allowed - step * 1e-6)
    assert rule.is_regression(baseline, worst_allowed + step)
    assert rule.text == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed:1%", "'speed' cannot be used in a rule; choose from peak_rss_bytes"),
        ("live_peak_bytes", "'' is not a limit for live_peak_bytes; write it as 5% or 5%"),
        ("live_peak_bytes:1%+16MB", "'1%+16MB' is not a limit"),
        ("mrr@10:16MiB", "'16MiB' is not a limit for mrr@10; write it as 5% or 0.03"),
        ("mrr@10:-0.1", "'-0.1' is not a limit"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("+", r"\+")):
        parse_rule(text)


def test_the_last_rule_that_fits_a_cell_counts() -> None:
    rules = [parse_rule(text) for text in ("peak_rss_bytes:5%", "peak_rss_bytes:20%:base-*", "final_loss:1%:tiny-*")]

    assert [rule.text for rule in rules_for(rules, "base-cpu")] == ["peak_rss_bytes:20%:base-*"]
    assert {rule.text for rule in rules_for(rules, "tiny-cpu")} == {"peak_rss_bytes:5%", "final_loss:1%:tiny-*"}
