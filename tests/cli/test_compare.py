"""Changes are shown worst first, and nothing that only one side has is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from results import MIB, make_call_result, make_cell_result

from splade_bench.cli import main
from splade_bench.results.records import CallResult, CellResult, append_result


def make_result(**changes: Any) -> CellResult:
    figures = {"peak_rss_bytes": 500 * MIB, "wall_time_s": 10.0, "metrics": {"mrr@10": 0.30}}
    return make_cell_result(**(figures | changes))


def write(path: Path, *results: CellResult | CallResult) -> str:
    for result in results:
        append_result(path, result)
    return str(path)


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:] if line.startswith("|")]


def test_the_worst_change_comes_first_and_a_metric_that_falls_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write(tmp_path / "a.jsonl", make_result())
    after = write(
        tmp_path / "b.jsonl",
        make_result(peak_rss_bytes=550 * MIB, wall_time_s=9.0, metrics={"mrr@10": 0.15}),
    )

    code = main(["compare", before, after])

    assert code == 0
    assert table_rows(capsys.readouterr().out) == [
        ["tiny-cpu-b8-a1-standard", "mrr@10", "0.3000", "0.1500", "-50.0%"],
        ["tiny-cpu-b8-a1-standard", r"peak\_rss\_bytes", "500 MiB", "550 MiB", "+10.0%"],
        ["tiny-cpu-b8-a1-standard", r"wall\_time\_s", "10.00 s", "9.00 s", "-10.0%"],
    ]


def test_medians_of_several_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "a.jsonl", *(make_result(round=n, wall_time_s=t) for n, t in enumerate([1.0, 2.0, 9.0])))
    after = write(tmp_path / "b.jsonl", make_result(wall_time_s=3.0))

    main(["compare", before, after, "--json"])

    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [change["change_ratio"] for change in changes if change["figure"] == "wall_time_s"] == [1.5]


def test_what_one_side_lacks_or_ended_otherwise_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_result(memory_mode="article")
    before = write(
        tmp_path / "a.jsonl",
        make_result(machine={"processor": "x"}),
        other,
        make_call_result("call|`x`", peak_rss_bytes=1),
    )
    after = write(tmp_path / "b.jsonl", make_result(machine={"processor": "y"}, status="oom"), other)

    code = main(["compare", before, after])

    printed = capsys.readouterr().out
    assert code == 0
    assert "- processor: None, x before, None, y after" in printed
    assert "- call|`x`: only in the first file (before)" in printed
    assert "- tiny-cpu-b8-a1-standard: ok before, oom after" in printed
    assert not any(row[0] == "tiny-cpu-b8-a1-standard" for row in table_rows(printed))


def test_files_with_nothing_in_common_are_no_comparison(tmp_path: Path) -> None:
    before = write(tmp_path / "a.jsonl", make_result())
    after = write(tmp_path / "b.jsonl", make_result(batch_size=2))

    assert main(["compare", before, after]) == 3


def test_an_empty_or_missing_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    present = write(tmp_path / "a.jsonl", make_result())
    (tmp_path / "empty.jsonl").write_text("")

    assert main(["compare", present, str(tmp_path / "empty.jsonl")]) == 2
    assert main(["compare", present, str(tmp_path / "nowhere.jsonl")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "empty.jsonl: has no results" in errors[0]
    assert "nowhere.jsonl: cannot be read" in errors[1]
