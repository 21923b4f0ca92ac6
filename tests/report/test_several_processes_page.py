"""The page of several processes has its own records, and those of the reliability page stay there."""

from __future__ import annotations

from report_results import row_of, text_of

from splade_bench.report.document import make_pages
from splade_bench.results.reliability import ReliabilityResult


def make_part(campaign: str, **changes: object) -> ReliabilityResult:
    fields = {"campaign": campaign, "fault": "timed", "expected": "90%", "tried": 2, "seen": {"ok": 2}} | changes
    return ReliabilityResult(**fields)  # type: ignore[arg-type]


def test_its_parts_figures_and_failures_are_shown() -> None:
    slow = {"figures": {"two_to_one_share": 0.87}, "failures": ["two processes train on 87 %"]}

    (page,) = make_pages([make_part("several processes", **slow)])

    assert page.name == "SEVERAL_PROCESSES"
    assert row_of(page, "campaigns", fault="timed")["verdict"] == "1 FAILED"
    assert row_of(page, "figures", figure="two to one share")["value"] == "87.00%"
    assert "two processes train on 87 %" in text_of(page)


def test_parts_of_other_campaigns_are_not_on_it() -> None:
    pages = make_pages([make_part("several processes"), make_part("disk", fault="write fails")])

    assert {page.name for page in pages} == {"RELIABILITY", "SEVERAL_PROCESSES"}
    assert all("write fails" not in text_of(page) for page in pages if page.name == "SEVERAL_PROCESSES")
