"""What is recorded is read back, in today's names, and a line that is not a record is one plain error."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import make_call_result, make_cell_result

from splade_bench.errors import DataError
from splade_bench.results.figures import RECORDED
from splade_bench.results.head import HeadResult
from splade_bench.results.plan import PlanResult
from splade_bench.results.records import (
    CellResult,
    Result,
    append_result,
    read_results,
)

# The names that other programs rely on.
FIXED_NAMES = [
    *["schema_version", "cell_id", "device", "batch_size", "gradient_accumulation_steps", "memory_mode", "workload"],
    *["status", "wall_time_s", "step_time_s", "baseline_rss_bytes", "peak_rss_bytes", "memray_peak_bytes"],
    *["final_loss", "metrics", "metrics_before", "validation_loss", "queries_seen", "seed", "corpus_sha256"],
    *["commit", "source_tree", "machine", "versions"],
]


def make_result(**changes: Any) -> CellResult:
    return make_cell_result(
        **{"gradient_accumulation_steps": 4, "wall_time_s": 1.5, "metrics": {"mrr@10": 0.3}, **changes}
    )


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


def test_a_torn_last_line_is_skipped_and_the_next_record_starts_clean(tmp_path: Path) -> None:
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
        (
            '{"schema_version": 99}',
            r"results.jsonl:2: was written by another version of splade-bench \(schema_version 99; this one reads 1\)",
        ),
        ('{"schema_version": 1}', r"results.jsonl:2: Object missing required field status"),
    ],
)
def test_a_foreign_line_is_refused_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{make_result().to_json()}\n{line}\n{make_result().to_json()}\n")

    with pytest.raises(DataError, match=complaint):
        read_results([path])


@pytest.mark.parametrize(
    ("written", "edited", "complaint"),
    [
        ('"ok"', '"fine"', "results.jsonl:1: status: Invalid enum value 'fine'"),
        ('"ok"', '"skipped"', "results.jsonl:1: status: Invalid enum value 'skipped'"),
        ('"wall_time_s": 1.5', '"wall_time_s": "x"', "results.jsonl:1: wall_time_s: Expected float or null, got str"),
        ('"seed": 42', '"seed": true', "results.jsonl:1: seed: Expected int, got bool"),
        ('"machine": {}', '"machine": null', "results.jsonl:1: machine: Expected object, got null"),
        ('"losses": null', '"losses": [1.0, "x"]', r"results.jsonl:1: losses\[1\]: Expected float or null, got str"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_field(
    tmp_path: Path, written: str, edited: str, complaint: str
) -> None:
    path = tmp_path / "results.jsonl"
    line = make_result().to_json()
    assert written in line
    path.write_text(line.replace(written, edited) + "\n")

    with pytest.raises(DataError, match=complaint):
        read_results([path])


def test_a_head_that_was_never_timed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(json.loads(HEAD.to_json()) | {"times_s": []}) + "\n")

    with pytest.raises(DataError, match=r"results.jsonl:1: times_s: Expected array of length >= 1"):
        read_results([path])


HEAD = HeadResult(
    **{"head": "eager", "hidden_size": 4, "active_share": 0.1, "texts": 2, "length": 3, "vocab_size": 5},
    **{"gemm_times_s": [1.0], "times_s": [2.0], "extra_bytes": 7},
)
PLAN = PlanResult(
    **{"name": "x", "device": "cuda", "batch_size": 4, "max_length": 256},
    **{"budget_bytes": 9, "peak_bytes": 8, "live_peak_bytes": 7},
)
FULL = make_result(
    **{figure.name: 5 for figure in RECORDED if figure.name != "mrr@10"},
    losses=[1.0, 2.0],
    memory_timeline=[{"time_s": 0.0, "rss_bytes": 5, "phase": "forward"}],
    memray_top_sites=[{"site": "head.py:3", "size_bytes": 5, "allocations": 1}],
    live_peak_by_category={"logits": 5},
    pass_errors={"heap": "error: x"},
    machine={"memory_bytes": 5},
    versions={"torch": "2.13.0"},
)
RECORDS = [json.loads(result.to_json()) for result in (FULL, make_call_result(value=[1]), HEAD, PLAN)]
NUMBERS = {figure.name for figure in RECORDED} | {"seed", "round", "batch_size", "peak_bytes", "extra_bytes"}
WRONG = st.sampled_from([None, True, "x", "1", [], [None], {}, {"x": 1}, {"x": None}, [{"site": 1}], 2.5, -1, 10**400])


@given(data=st.data())
def test_a_damaged_record_is_read_as_it_is_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = data.draw(st.sampled_from(RECORDS))
    name, value = data.draw(st.sampled_from(sorted(record))), data.draw(WRONG)
    path = tmp_path_factory.mktemp("fuzz") / "results.jsonl"
    path.write_text(json.dumps(record | {name: value}) + "\n")

    refused: DataError | None = None
    try:
        (result,) = read_results([path])
    except DataError as error:
        refused = error

    if refused:
        assert "\n" not in str(refused)
        assert "results.jsonl:1: " in str(refused)
    else:
        assert getattr(result, name) == value or name == "cell_id"  # which follows from the others
        assert name not in NUMBERS or value is None or not isinstance(value, str | list | dict | bool)


def test_no_figure_is_read_from_another_type(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for name in NUMBERS & {field.name for field in fields(CellResult)}:
        for value in (True, "1", [1], {"x": 1}):
            path.write_text(json.dumps(RECORDS[0] | {name: value}) + "\n")
            with pytest.raises(DataError, match=f"results.jsonl:1: {name}: "):
                read_results([path])


@pytest.mark.parametrize("result", [FULL, make_call_result(value=[1]), HEAD, PLAN])
def test_every_kind_of_record_is_read_back_as_it_was_written(tmp_path: Path, result: Result) -> None:
    append_result(tmp_path / "results.jsonl", result)

    assert read_results([tmp_path / "results.jsonl"]) == [result]


def test_a_trainer_of_an_earlier_version_is_read_under_its_name_of_today(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    peer = make_result(workload="base-512", trainer="article", memory_mode="standard+dynamic-padding")
    old = json.loads(peer.to_json()) | {"cell_id": "base-512-cpu-b8-a4-article"}
    mode = make_result(workload="base-512", memory_mode="article")
    path.write_text(f"{json.dumps(old)}\n{mode.to_json()}\n")

    read_peer, read_mode = read_results([path])

    assert isinstance(read_peer, CellResult) and isinstance(read_mode, CellResult)
    assert (read_peer.trainer, read_peer.cell_id) == ("article-trainer", "base-512-cpu-b8-a4-article-trainer")
    assert (read_mode.memory_mode, read_mode.cell_id) == ("article", "base-512-cpu-b8-a4-article")
    assert read_peer.cell.cell_id == read_peer.cell_id


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
    """A limit on the size of files takes the place of a full disk: both make a write fail."""
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


def test_the_largest_request_that_torch_can_report_does_not_spoil_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    failed = make_call_result(status="oom", failed_allocation_bytes=2**61)

    append_result(path, failed)

    assert read_results([path]) == [failed]
