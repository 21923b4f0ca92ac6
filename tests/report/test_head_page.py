"""The head page judges the streaming head by its limits, beside the eager one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_results import row_of
from results import MIB

from splade_bench.errors import DataError
from splade_bench.report.document import write_report
from splade_bench.report.head import head_page, multiples
from splade_bench.results.head import HeadResult
from splade_bench.results.records import append_result, read_results


def make_result(
    head: str,
    times_s: list[float],
    *,
    hidden_size: int = 768,
    extra_mib: int = 50,
    active_share: float = 0.01,
    **changes: Any,
) -> HeadResult:
    return HeadResult(
        head=head,
        hidden_size=hidden_size,
        active_share=active_share,
        texts=2,
        length=512,
        vocab_size=30522,
        times_s=times_s,
        extra_bytes=extra_mib * MIB,
        **({"gemm_times_s": [0.1, 0.2, 0.3]} | changes),
    )


def test_times_are_multiples_of_the_median_product() -> None:
    assert multiples(make_result("eager", [0.2, 0.4])) == pytest.approx([1.0, 2.0])


def test_the_streaming_head_is_judged_and_eager_is_not() -> None:
    page = head_page([make_result("streaming", [0.25]), make_result("eager", [1.5], extra_mib=500)])

    (_, table) = page.tables
    assert table.rows == [
        ["768", "1 %", "streaming", "1.25", "≤ 1.3 met", "6.0", "≥ 4 met", "50", "≤ 64 met"],
        ["768", "1 %", "eager", "7.50", "", "—", "", "500", ""],
    ]


def test_a_missed_limit_is_said() -> None:
    page = head_page([make_result("streaming", [0.5], extra_mib=65), make_result("eager", [1.0])])

    row = row_of(page, "head", head="streaming")
    assert row["time limit"] == "≤ 1.3 MISSED"
    assert row["speed-up limit"] == "≥ 4 MISSED"
    assert row["extra limit, MiB"] == "≤ 64 MISSED"


def test_results_of_the_head_survive_the_disk_beside_those_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    result = make_result("streaming", [0.25])

    append_result(path, result)

    assert read_results([path]) == [result]
    assert [page.name for page in write_report(read_results([path]), tmp_path)] == ["HEAD.md", "report.html"]


@pytest.mark.parametrize("times", ["[]", "0.5", '["x"]', "null"])
def test_times_that_are_not_a_list_of_numbers_are_refused_with_their_line(tmp_path: Path, times: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(
        make_result("streaming", [0.25]).to_json().replace('"times_s": [0.25]', f'"times_s": {times}') + "\n"
    )

    with pytest.raises(DataError, match=r"results\.jsonl:1: times_s"):
        read_results([path])


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({"wall_time_s": 20.0, "others_cpu_time_s": 2.1}, True),
        ({"wall_time_s": 20.0, "others_cpu_time_s": 1.9}, False),
        ({"gemm_times_s": [0.3, 0.3, 0.1]}, True),
        ({"gemm_times_s": [0.22, 0.22, 0.1]}, False),
        ({}, False),
    ],
)
def test_a_head_that_was_measured_in_bad_company_is_marked(changes: dict[str, Any], marked: bool) -> None:
    others = [make_result("eager", [1.0], active_share=share) for share in (0.01, 0.1, 1.0)]

    page = head_page([*others, make_result("streaming", [0.25], **changes)])

    row = row_of(page, "head", head="streaming")
    assert row.get("in bad company") == ("1 of 1" if marked else None)
