"""The accelerators page: limits are decided by CUDA alone, and what was not measured is said to be so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_results import make_result, row_of, text_of

from splade_bench.errors import DataError
from splade_bench.report.accelerators import LIMITS, PARTS, accelerators_page
from splade_bench.report.document import make_pages
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.records import append_result, read_results

MIB = 2**20


def make_part(part: str, *rows: dict[str, Any], device: str = "cuda", shrunk: bool = False) -> AcceleratorResult:
    return AcceleratorResult(part=part, device=device, shrunk=shrunk, rows=[*rows], started_at="2026-01-01")


def make_step(trainer: str, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "workload": "accelerator",
        "device": "cuda",
        "batch_size": 32,
        "trainer": trainer,
        "step_time_s": 0.1,
        "device_peak_allocated_bytes": 1000 * MIB,
    }
    return make_result(**values | changes)


FORWARD = {"shape": "320 x 512 x 768 x 30522", "tile": "default", "time_s": 0.02, "ratio": 1.1}
BACKWARD = {"shape": "320 x 512 x 768 x 30522", "active_share": 0.01, "way": "bags", "time_s": 0.011}
MEASURED = [
    make_part("operators", {"step": "x", "ratio": 1.25}, device="cpu", shrunk=True),
    make_part("head forward", FORWARD),
    make_part("head backward", BACKWARD),
    make_part("largest batches", {"trainer": "splade-bench", "queries": 130}, {"trainer": "SpladeLoss", "queries": 10}),
    make_part("gaps", {"gap_share": 0.2}),
    make_step("splade-bench", step_time_s=0.05, planned_live_peak_bytes=990 * MIB),
    make_step("SpladeLoss", device_peak_allocated_bytes=6000 * MIB),
]
OUTCOMES = ["1.25 met", "1.10 met", "0.0310 MISSED", "0.50 met", "0.17 met", "13.0 met", "1.0% met", "20.0% MISSED"]


def outcomes(results: list[Any]) -> list[str]:
    page = accelerators_page(results)
    return [row_of(page, "limits", figure=limit.title)["measured"] for limit in LIMITS]


def test_each_limit_has_its_outcome() -> None:
    assert outcomes(MEASURED) == OUTCOMES


def test_small_sizes_and_other_devices_decide_no_limit_but_the_count_of_operators() -> None:
    elsewhere = [
        make_part("operators", {"step": "x", "ratio": 1.4}, device="cpu", shrunk=True),
        make_part("head forward", FORWARD, device="cpu", shrunk=True),
        make_part("head forward", FORWARD, device="mps"),
        make_step("splade-bench", device="mps"),
        make_step("SpladeLoss", device="mps"),
    ]

    assert outcomes(elsewhere) == ["1.40 MISSED", *["not measured"] * (len(LIMITS) - 1)]


def test_a_part_that_did_not_run_is_not_measured() -> None:
    text = text_of(accelerators_page([make_part("gaps", {"gap_share": None})]))

    assert text.count("Not measured.") == len(PARTS)  # all others, and the full step


def test_columns_have_their_units_and_missing_figures_a_dash() -> None:
    part = make_part("head forward", FORWARD | {"added_bytes": 64 * MIB}, {"shape": "y", "error": "no memory"})
    page = accelerators_page([part])

    row = row_of(page, "head_forward", shape=FORWARD["shape"])
    assert (row["time, ms"], row["added, MiB"], row["ratio"], row["error"]) == ("20", "64", "1.1", "—")
    assert row_of(page, "head_forward", shape="y")["time, ms"] == "—"
    assert row_of(page, "head_forward", shape="y")["device"] == "cuda"


def test_the_newest_record_of_a_part_is_shown() -> None:
    older = make_part("gaps", {"gap_share": 0.9})
    newer = replace(older, rows=[{"gap_share": 0.05}], started_at="2026-02")

    assert outcomes([newer, older])[-1] == "5.0% met"


def test_a_record_is_read_back_and_one_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, make_part("gaps", {"gap_share": 0.05, "step_s": float("nan")}))

    (read,) = read_results([path])
    assert isinstance(read, AcceleratorResult)
    assert read.rows == [{"gap_share": 0.05, "step_s": None}]
    assert [page.name for page in make_pages([read])] == ["ACCELERATORS"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": []}) + "\n")
    with pytest.raises(DataError, match=r"results\.jsonl:1"):
        read_results([path])
