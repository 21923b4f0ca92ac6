"""The article's failure is explained by a plan that fails in the same way, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_results import HOSTILE, make_result, row_of, text_of

from splade_bench.errors import DataError
from splade_bench.report.article import article_page, explains
from splade_bench.report.document import write_report
from splade_bench.report.markdown import page_markdown
from splade_bench.results.plan import PlanResult
from splade_bench.results.records import append_result, read_results

GIB = 2**30
LOGITS_BYTES = 8 * 512 * 30522 * 4


def make_plan(name: str = "memory-efficient", **changes: object) -> PlanResult:
    fields: dict[str, object] = {
        "name": name,
        "device": "mps",
        "batch_size": 8,
        "max_length": 512,
        "budget_bytes": round(27.2 * GIB),
        "peak_bytes": 2 * GIB,
        "live_peak_bytes": GIB,
    }
    return PlanResult(**fields | changes)  # type: ignore[arg-type]


def failing(*, name: str = "article", reserved_gib: float = 26.8, asked_bytes: int = LOGITS_BYTES) -> PlanResult:
    return make_plan(
        name,
        peak_bytes=28 * GIB,
        failed_operator="aten.mul.Tensor",
        failed_phase="forward",
        failed_allocation_bytes=asked_bytes,
        reserved_bytes=round(reserved_gib * GIB),
    )


def test_a_plan_explains_the_failure_if_it_asks_for_the_same_with_as_much_reserved() -> None:
    assert explains(failing())
    assert not explains(failing(reserved_gib=25.8))
    assert not explains(failing(asked_bytes=LOGITS_BYTES * 2))
    assert not explains(make_plan())


def test_the_page_says_what_explains_the_failure_and_what_fits() -> None:
    page = article_page([failing(), make_plan()], [])

    text = text_of(page)
    assert "it asks for 476.91 MiB in forward, with 26.80 GiB reserved" in text
    assert "1 of 2 fit. The smallest is memory-efficient: 2.00 GiB." in text
    assert "unexplained" not in text
    assert (
        row_of(page, "article", **{"in the budget": "does not fit"}).items()
        >= {
            "what trains": "article",
            "failing, MiB": "476.91",
            "reserved then, GiB": "26.80",
        }.items()
    )


def test_a_hostile_name_stays_in_its_place() -> None:
    page = page_markdown(article_page([failing(name=HOSTILE)], []))

    assert "<script>" not in page and "\x1b" not in page


def test_the_page_says_that_nothing_explains_the_failure() -> None:
    assert "the difference is unexplained" in text_of(article_page([failing(reserved_gib=25.8)], []))


def test_times_are_those_of_the_same_mode_and_batch() -> None:
    cells = [
        make_result("memory-efficient", workload="base-512", **{"attention_dropout": 0.1} | changes)
        for changes in (
            {"batch_size": 8, "step_time_s": 80.0},
            {"batch_size": 8, "step_time_s": 82.0},
            {"batch_size": 2, "step_time_s": 10.0},
            {"batch_size": 8, "step_time_s": 7.0, "attention_dropout": 0.0},
            {"batch_size": 8, "step_time_s": 5.0, "trainer": "SpladeLoss"},
        )
    ]

    assert row_of(article_page([make_plan()], cells), "article")["s per step, CPU"] == "81.0"


def test_plans_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"

    append_result(path, failing())

    assert read_results([path]) == [failing()]
    assert [page.name for page in write_report(read_results([path]), tmp_path)] == ["ARTICLE.md", "report.html"]


def test_a_plan_without_a_peak_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(failing().to_json().replace(f'"peak_bytes": {28 * GIB}', '"peak_bytes": null') + "\n")

    with pytest.raises(DataError, match=r"results\.jsonl:1: peak_bytes: Expected int, got null"):
        read_results([path])
