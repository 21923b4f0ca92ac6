from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.errors import DataError
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult, append_result, read_results

CELL = Cell(workload="tiny", device="cpu", batch_size=8, gradient_accumulation_steps=4, memory_mode="standard")
# The names that other programs rely on.
FIXED_NAMES = [
    *["schema_version", "cell_id", "device", "batch_size", "gradient_accumulation_steps", "memory_mode", "workload"],
    *["status", "wall_time_s", "step_time_s", "baseline_rss_bytes", "peak_rss_bytes", "memray_peak_bytes"],
    *["final_loss", "metrics", "metrics_before", "validation_loss", "queries_seen", "seed", "corpus_sha256"],
    *["commit", "source_tree", "machine", "versions"],
]


def make_result(**changes: Any) -> CellResult:
    return replace(CellResult.of_cell(CELL, status="ok", wall_time_s=1.5, metrics={"mrr@10": 0.3}), **changes)


def test_the_record_has_the_fixed_names() -> None:
    record = json.loads(make_result().to_json())

    assert set(FIXED_NAMES) <= set(record)
    assert record["cell_id"] == "tiny-cpu-b8-a4-standard"
    assert record["peak_rss_bytes"] is None  # not measured is null


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    results = [make_result(seed=seed) for seed in range(3)]
    for result in results:
        append_result(path, result)

    assert read_results([path]) == results


def test_numbers_that_json_cannot_hold_become_null() -> None:
    line = make_result(final_loss=math.nan, metrics={"mrr@10": math.inf}, losses=[1.0, -math.inf]).to_json()

    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    assert record["final_loss"] is None
    assert record["metrics"] == {"mrr@10": None}
    assert record["losses"] == [1.0, None]


def test_a_torn_last_line_is_passed_over_and_the_next_record_starts_clean(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, make_result(seed=1))
    whole = path.read_bytes()
    for length in range(1, len(whole) - 1, 37):
        path.write_bytes(whole + whole[:length])

        assert [result.seed for result in read_results([path])] == [1]
        append_result(path, make_result(seed=2))
        assert [result.seed for result in read_results([path])] == [1, 2]


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(make_result(seed=1).to_json())

    append_result(path, make_result(seed=2))

    assert [result.seed for result in read_results([path])] == [1, 2]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", r"results.jsonl:2: is not JSON"),
        pytest.param(f'{{"seed": {"1" * 5000}}}', r"results.jsonl:2: is not (JSON|a result record)", id="many digits"),
        ("[1]", r"results.jsonl:2: is not a result record"),
        ('{"a": 1}', r"results.jsonl:2: is not a result record"),
        ('{"schema_version": 99}', r"results.jsonl:2: has schema_version 99"),
        ('{"schema_version": 1}', r"results.jsonl:2: lacks status, cell_id"),
    ],
)
def test_a_foreign_line_is_refused_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{make_result().to_json()}\n{line}\n{make_result().to_json()}\n")

    with pytest.raises(DataError, match=complaint):
        read_results([path])


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(make_result().to_json().replace('"ok"', '"fine"') + "\n")

    with pytest.raises(DataError, match="unknown status 'fine'"):
        read_results([path])


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(make_result().to_json().replace('"wall_time_s": 1.5', '"wall_time_s": "x"') + "\n")

    with pytest.raises(DataError, match="wall_time_s 'x', which is no number"):
        read_results([path])


def test_fields_of_a_later_minor_version_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    record = json.loads(make_result().to_json()) | {"later_figure_bytes": 12}
    path.write_text(json.dumps(record) + "\n")

    assert read_results([path]) == [make_result()]


def test_every_field_says_its_unit() -> None:
    for field in fields(CellResult):
        assert not field.name.endswith(("_mb", "_gb", "_ms", "_mib", "_gib")), field.name


@pytest.mark.skipif(sys.platform == "win32", reason="files have no size limit of a process there")
def test_a_disk_that_is_full_is_one_clear_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: both make a write fail."""
    path = tmp_path / "results.jsonl"
    append_result(path, make_result(seed=1))
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from splade_bench.errors import DataError\n"
        "from splade_bench.results.records import append_result, read_results\n"
        "path = Path(sys.argv[1])\n"
        "(result,) = read_results([path])\n"
        "limit = path.stat().st_size + 20\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    append_result(path, result)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )

    finished = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)

    assert "results.jsonl: a result cannot be written: File too large" in finished.stdout
    assert read_results([path]) == [make_result(seed=1)]
    append_result(path, make_result(seed=2))
    assert read_results([path]) == [make_result(seed=1), make_result(seed=2)]
