"""A session records its measurements, and knows which cells have a result already."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results import make_call_result, make_cell_result

from splade_bench.bench import calls
from splade_bench.bench.calls import CallRunner, call_request
from splade_bench.bench.cells import CellRunner
from splade_bench.bench.known_blocks import touch_block
from splade_bench.bench.protocol import CallRequest, MemoryPass
from splade_bench.bench.session import MeasuringSession
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import Cell
from splade_bench.measure.machine import taken_on
from splade_bench.results.head import HeadResult
from splade_bench.results.records import CellResult, append_result, read_results

CELL = Cell(workload="head", device="cpu", batch_size=1, gradient_accumulation_steps=1, memory_mode="standard")


def environment_and_input() -> list[str]:
    return [os.environ["PYTHONHASHSEED"], sys.stdin.read()]


def make_session(folder: Path, **changes: Any) -> MeasuringSession:
    settings: dict[str, Any] = {
        "results_path": folder / "results.jsonl",
        "cells": CellRunner(cache=folder / "cache", timeout_s=60),
        "calls": CallRunner(timeout_s=60),
    }
    return MeasuringSession(**settings | changes)


def record(folder: Path, **changes: Any) -> CellResult:
    result = make_cell_result(CELL, **(taken_on() | changes))
    append_result(folder / "results.jsonl", result)
    return result


@pytest.mark.parametrize(
    ("status", "settled"),
    [("ok", True), ("oom", True), ("nan", True), ("timeout", True), ("killed", False), ("error", False)],
)
def test_a_cell_that_would_end_in_the_same_way_does_not_run_again(tmp_path: Path, status: str, settled: bool) -> None:
    recorded = record(tmp_path, status=status)

    session = make_session(tmp_path, resume=True)

    assert session.resumed(CELL) == (recorded if settled else None)
    assert session.reused == ([recorded] if settled else [])
    assert session.resumed(replace(CELL, seed=7)) is None
    assert make_session(tmp_path, resume=False).resumed(CELL) is None


@pytest.mark.parametrize(
    "changes",
    [{"source_tree": "other"}, {"versions": {"torch": "1"}}, {"machine": {"processor": "x"}}, {"corpus_sha256": "x"}],
)
def test_results_of_something_else_do_not_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    record(tmp_path, **changes)

    assert make_session(tmp_path, resume=True).resumed(CELL) is None


def test_a_cell_has_the_memory_limit_of_its_session_wherever_it_is_asked_for(tmp_path: Path) -> None:
    limited = replace(CELL, memory_limit_bytes=600 * 2**20)
    recorded = record(tmp_path, memory_limit_bytes=limited.memory_limit_bytes, cell_id=limited.cell_id)
    session = make_session(tmp_path, memory_limit_bytes=600 * 2**20, resume=True)

    assert session.resumed(CELL) == session.recorded(CELL) == recorded
    assert session.limited(CELL) == limited
    assert session.limited(replace(CELL, memory_limit_bytes=7)).memory_limit_bytes == 7
    assert make_session(tmp_path, resume=True).resumed(CELL) is None
    with pytest.raises(ConfigError, match="--memory-limit 1 MiB: Python, its imports and the warm-up already take"):
        make_session(tmp_path, memory_limit_bytes=2**20).require_room(CELL)


def test_a_resumed_session_keeps_its_name(tmp_path: Path) -> None:
    first = make_session(tmp_path).measure_call("a call", call_request(touch_block, 1))

    assert make_session(tmp_path, resume=True).measure_call("b", call_request(touch_block, 1)).session == first.session
    assert make_session(tmp_path).measure_call("c", call_request(touch_block, 1)).session != first.session


def test_a_shard_resumes_the_results_of_all_shards_under_a_name_of_its_own(tmp_path: Path) -> None:
    other_cell = replace(CELL, seed=7)
    first = record(tmp_path, shard="1/2", session="first", started_at="2026-01-01")
    second = record(tmp_path, shard="2/2", session="second", started_at="2026-01-02", seed=7)

    def resumed(shard: str | None) -> tuple[str | None, str | None]:
        session = make_session(tmp_path / "run", results_path=tmp_path / "results.jsonl", resume=True, shard=shard)
        assert (session.resumed(CELL), session.resumed(other_cell)) == (first, second)
        session.results_path = None
        result = session.measure_call("a call", call_request(touch_block, 1))
        return result.session, result.shard

    assert resumed("1/2") == ("first", "1/2")
    assert resumed(None) == resumed("2/4") == ("second", "2/2"), "the sweep goes on as it was divided before"


def test_a_shard_that_begins_does_not_take_the_name_of_another(tmp_path: Path) -> None:
    record(tmp_path, shard="1/2", session="first", started_at="2026-01-01")

    result = make_session(tmp_path, resume=True, shard="2/2").measure_call("a call", call_request(touch_block, 1))

    assert result.session != "first"
    assert result.shard == "2/2"


def test_a_call_has_no_input_and_the_same_hashes_as_every_other(tmp_path: Path) -> None:
    result = make_session(tmp_path).measure_call("a call", call_request(environment_and_input))

    assert result.value == ["0", ""]


def leave_little_address_space() -> None:
    """What the process does after it, such as a matrix product in threads, would kill it."""
    import resource  # Windows has none

    resource.setrlimit(resource.RLIMIT_AS, (150 * 2**20, -1))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
def test_the_time_of_a_call_carries_the_load_of_the_machine_and_nothing_runs_after_it(tmp_path: Path) -> None:
    result = make_session(tmp_path).measure_call("a call", call_request(leave_little_address_space))

    assert (result.status, result.gemm_flops_per_s) == ("ok", None), result.error
    assert result.others_cpu_time_s is not None


def test_a_call_is_recorded_with_its_session_and_test(tmp_path: Path) -> None:
    session = make_session(tmp_path)

    result = session.measure_call("a call", call_request(touch_block, 2**20), test_id="tests/x.py::y")

    assert read_results([tmp_path / "results.jsonl"]) == [result]
    assert (result.status, result.value, result.test_id) == ("ok", 2**20, "tests/x.py::y")
    assert result.session
    assert result.session != make_session(tmp_path).measure_call("a call", call_request(touch_block, 1)).session


@pytest.mark.slow
def test_a_head_is_measured_by_an_ordinary_call(tmp_path: Path) -> None:
    settings = {"head": "streaming", "hidden_size": 16, "active_share": 0.1}
    request = CallRequest(module="head_alone", function="measure_head", keywords=settings)
    result = make_session(tmp_path).measure_as(HeadResult, request)

    assert read_results([tmp_path / "results.jsonl"]) == [result]
    assert (result.head, result.hidden_size, len(result.times_s)) == ("streaming", 16, 9)
    assert result.active_share == pytest.approx(0.1, abs=0.002)
    assert result.extra_bytes > 0
    assert result.wall_time_s and result.wall_time_s >= sum(result.times_s)
    assert result.others_cpu_time_s is not None and result.others_cpu_time_s >= 0
    assert result.machine["threads"] and result.machine["device"] == "cpu"


def once_then_twice(folder: str) -> None:
    """Fails in its second call only: the first is the time pass, the second the heap pass, the third the pinned one."""
    calls = Path(folder, "calls")
    number = len(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text("x" * number)
    if number == 2:
        raise ValueError("not\nagain")


def test_a_memory_pass_that_fails_is_on_the_record_and_in_the_line(tmp_path: Path) -> None:
    passes: list[MemoryPass] = ["heap", "pinned"]
    session = make_session(tmp_path, calls=CallRunner(timeout_s=60, memory_passes=passes))

    result = session.measure_call("a call", call_request(once_then_twice, str(tmp_path)))

    assert read_results([tmp_path / "results.jsonl"]) == [result]
    assert (result.status, result.memray_peak_bytes) == ("ok", None)
    assert result.pass_errors == {"heap": "error: ValueError: not again"}
    assert (result.pinned_peak_rss_bytes is not None) == (platform.libc_ver()[0] == "glibc")
    assert "  heap pass failed: error: ValueError: not again  " in session.line(result)


def build_once(path: str) -> str:
    """As a function that keeps its result outside the test's own folder."""
    if Path(path).exists():
        return "already there"
    Path(path).write_text("x")
    return "built"


def test_a_pass_that_did_other_work_is_on_the_record_and_in_the_line(tmp_path: Path) -> None:
    session = make_session(tmp_path, calls=CallRunner(timeout_s=60, memory_passes=["heap"]))

    result = session.measure_call("a call", call_request(build_once, str(tmp_path / "elsewhere")))

    assert result.value == "built"
    assert result.pass_differences == {"heap": 'returned "already there", the timed call "built"'}
    assert '  heap pass: returned "already there", the timed call "built"  ' in session.line(result)


def test_two_fractions_are_no_difference_between_passes(tmp_path: Path) -> None:
    session = make_session(tmp_path, calls=CallRunner(timeout_s=60, memory_passes=["heap"]))

    result = session.measure_call("a call", call_request(seconds_now))

    assert isinstance(result.value["times_s"][0], float)
    assert result.pass_differences is None


def seconds_now() -> dict[str, object]:
    return {"times_s": [time.time(), time.time()], "n": 3}


@pytest.mark.parametrize(
    ("value", "other", "differs"),
    [
        (1.5, 2.5, False),
        ({"s": 1.5, "n": [3, 0.5]}, {"s": 2.5, "n": [3, 0.25]}, False),
        ({"s": 1.5, "n": 3}, {"s": 2.5, "n": 4}, True),
        ([1.5], [2.5, 3.5], True),
        ({"s": 1.5}, {"s": None}, True),
        (1, 1.0, False),
    ],
)
def test_fractions_at_any_depth_may_differ_between_passes(value: object, other: object, differs: bool) -> None:
    assert bool(calls._differences(value, {"heap": other})) == differs


def test_the_line_of_a_call_says_whether_its_child_processes_count(tmp_path: Path) -> None:
    result = make_call_result(
        "a call", peak_rss_bytes=2**20, peak_rss_source="VmHWM; with 2 of them", child_processes=2
    )

    assert make_session(tmp_path).line(result) == "a call  ok  peak 1 MiB  (VmHWM; with 2 of them)  [0]"


def test_without_a_file_results_are_still_kept(tmp_path: Path) -> None:
    session = make_session(tmp_path, results_path=None)

    result = session.measure_call("a call", call_request(touch_block, 1))

    assert session.finished == [result]


def test_a_line_shows_the_result_and_no_control_characters(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    session.expected_cells = 2
    result = CellResult.of_cell(CELL, status="error", error="boom\x1b[31m\nmore", peak_rss_bytes=2**20, wall_time_s=2.0)

    assert session.line(result) == "head-cpu-b1-a1-standard  error  2.0 s  peak 1 MiB  boom  more  [0/2, 0.0 s left]"


class Bound:
    def method(self) -> None: ...


def test_only_a_function_that_another_process_finds_by_its_name_is_called() -> None:
    assert call_request(touch_block, 1, hold_s=0.5).function == "touch_block"
    for function in (Bound().method, lambda: None, len):
        with pytest.raises(ConfigError, match="move it to the top of a module"):
            call_request(function)


def test_a_function_whose_name_has_another_value_now_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[touch_block.__module__]
    monkeypatch.setattr(module, "touch_block", lambda size_bytes: 0)

    with pytest.raises(ConfigError, match="move it to the top of a module"):
        call_request(touch_block, 1)
