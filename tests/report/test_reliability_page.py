"""The reliability page says of each campaign whether it ran, what it saw, and what failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_results import row_of, text_of

from splade_bench.errors import DataError
from splade_bench.report.document import write_report
from splade_bench.report.reliability import CAMPAIGNS, reliability_page
from splade_bench.results.records import append_result, read_results
from splade_bench.results.reliability import ReliabilityResult


def make_part(**changes: object) -> ReliabilityResult:
    fields: dict[str, object] = {
        "campaign": "disk",
        "fault": "write fails",
        "expected": "nothing is lost",
        "tried": 3,
        "seen": {"exit code 0": 1, "exit code 1": 2},
        "started_at": "2026-01-01",
    }
    return ReliabilityResult(**fields | changes)  # type: ignore[arg-type]


def test_a_part_shows_what_was_expected_and_seen_with_counts() -> None:
    page = reliability_page([make_part()])

    row = row_of(page, "campaigns", fault="write fails")
    assert row["expected"] == "nothing is lost"
    assert (row["tried"], row["seen"], row["verdict"]) == ("3", "1 exit code 0, 2 exit code 1", "as expected")
    assert "- a call of the disk fails: 3 tried, as expected, 17 of 18 parts **not run**" in text_of(page)


def test_a_failure_is_shown_with_its_details() -> None:
    page = reliability_page([make_part(failures=["write 7: other weights"])])

    assert row_of(page, "campaigns", fault="write fails")["verdict"] == "1 FAILED"
    assert "1 of 1 parts **FAILED**" in text_of(page)
    assert "write 7: other weights" in text_of(page)


@pytest.mark.parametrize("nothing", [{"tried": 0, "seen": {}}, {"tried": 3, "seen": {"exit code 0": 2}}, {"seen": {}}])
def test_a_campaign_that_judged_nothing_has_not_passed(nothing: dict[str, object]) -> None:
    part = make_part(**nothing)

    assert not part.passed
    assert row_of(reliability_page([part]), "campaigns", fault="write fails")["verdict"] == "NOTHING JUDGED"


def test_parts_that_did_not_run_are_counted() -> None:
    text = text_of(reliability_page([make_part(campaign="flags")]))

    assert "- a long training: 0 tried, 4 of 4 parts **not run**" in text
    assert "- each flag has a test: 3 tried, as expected\n" in f"{text}\n"
    assert text.count("**not run**") == len(CAMPAIGNS) - 1


def test_the_newest_run_of_a_part_counts() -> None:
    failed = make_part(failures=["lost"], started_at="2026-01-01")

    page = reliability_page([make_part(started_at="2026-01-02"), failed])

    assert row_of(page, "campaigns", fault="write fails")["verdict"] == "as expected"


def test_kills_signals_and_flags_are_shown_one_by_one() -> None:
    kill = make_part(campaign="kill", tries=[{"kill": 1, "after_s": 1.234, "weights": "equal"}])
    flag = make_part(campaign="flags", tries=[{"flag": "--save-steps", "test": None, "tests": 0}])

    page = reliability_page([kill, flag])

    assert row_of(page, "kills", kill="1") == {"kill": "1", "after s": "1.23", "weights": "equal"}
    assert row_of(page, "flags", flag="--save-steps")["test"] == "—"


def test_figures_have_their_units_and_what_was_not_measured_a_dash() -> None:
    figures = {"end_bytes": 1234567.0, "growth_share": 0.0123, "check_s": None}

    page = reliability_page([make_part(figures=figures)])

    values = [row_of(page, "figures", figure=name)["value"] for name in ("end bytes", "growth share", "check s")]
    assert values == ["1,234,567", "1.23%", "—"]


def test_long_trainings_are_a_picture() -> None:
    samples = [{"step": step, "rss_bytes": 2**20 * (400 + step)} for step in range(1, 9)]

    page = reliability_page([make_part(campaign="soak", fault="standard", tries=samples)])

    (picture,) = page.pictures
    assert picture.name == "soak"
    assert "standard" in picture.svg


def test_parts_survive_the_disk_and_make_their_page(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"

    append_result(path, make_part())

    assert read_results([path]) == [make_part()]
    assert [page.name for page in write_report(read_results([path]), tmp_path)] == ["RELIABILITY.md", "report.html"]


@pytest.mark.parametrize("damage", [('"tried": 3', '"tried": "3"'), ('"seen": {', '"seen": [{'), ('"fault"', '"fau"')])
def test_a_damaged_part_is_refused_with_its_line(tmp_path: Path, damage: tuple[str, str]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(make_part().to_json().replace(*damage) + "\n")

    with pytest.raises(DataError, match=r"results\.jsonl:1: "):
        read_results([path])
