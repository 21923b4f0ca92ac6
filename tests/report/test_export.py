"""Results as one CSV file for a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from results import make_call_result, make_cell_result

from splade_bench.cli import main
from splade_bench.report.export import to_csv
from splade_bench.results.records import append_result


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_a_result_with_the_names_of_the_results_file() -> None:
    cell = make_cell_result(peak_rss_bytes=5, metrics={"mrr@10": 0.25}, losses=[1.0, 2.0], machine={"processor": "a,b"})
    call = make_call_result("=cmd()", status="oom", error="line\nbreak", peak_rss_bytes=7)

    first, second = rows_of(to_csv([cell, call]))

    assert (first["cell_id"], first["peak_rss_bytes"], first["metrics.mrr@10"]) == (
        "tiny-cpu-b8-a1-standard",
        "5",
        "0.25",
    )
    assert first["machine.processor"] == "a,b"
    assert first["wall_time_s"] == ""  # not measured
    assert "losses" not in first
    assert (second["status"], second["error"], second["peak_rss_bytes"]) == ("oom", "line\nbreak", "7")
    assert second["name"] == "'=cmd()"  # no formula
    assert second["cell_id"] == ""


def test_the_report_writes_it_beside_its_pages(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    append_result(results, make_cell_result(peak_rss_bytes=5))

    code = main(["report", "--results", str(results), "--output", str(tmp_path), "--csv", str(tmp_path / "cells.csv")])

    assert code == 0
    assert rows_of((tmp_path / "cells.csv").read_text())[0]["peak_rss_bytes"] == "5"
