"""The head page judges the streaming head by its limits, beside the eager one."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_results import row_of
from results import MIB

from splade_bench.errors import DataError
from splade_bench.report.document import write_report
from splade_bench.report.head import head_page, multiples
from splade_bench.results.records import HeadResult, append_result, read_results


def make_result(head: str, times_s: list[float], *, hidden_size: int = 768, extra_mib: int = 50) -> HeadResult:
    return HeadResult(
        head=head,
        hidden_size=hidden_size,
        active_share=0.01,
        texts=2,
        length=512,
        vocab_size=30522,
        gemm_times_s=[0.1, 0.2, 0.3],
        times_s=times_s,
        extra_bytes=extra_mib * MIB,
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
