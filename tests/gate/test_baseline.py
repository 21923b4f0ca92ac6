"""A baseline comes back as it was written, and is made of nothing but sound figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gated import MACHINE, NAME, cells, make_result
from results import make_call_result

from splade_bench.errors import DataError
from splade_bench.gate.baseline import read_baseline, write_baseline
from splade_bench.gate.cells import gated_cells, newest_sessions, only_in_earlier_sessions
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule
from splade_bench.gate.verdict import check, verdict_lines


def test_a_baseline_comes_back_as_it_was_written_sorted_and_a_figure_a_line(tmp_path: Path) -> None:
    made = cells(make_result(), make_call_result("tests/test_x.py::test_it: touch", live_peak_bytes=7))
    path = tmp_path / "new" / "baseline.json"

    write_baseline(path, made)

    assert read_baseline(path).keys() == made.keys()
    assert check(made, read_baseline(path), DEFAULT_RULES).exit_code == 0
    text = path.read_text()
    write_baseline(path, dict(reversed(made.items())))
    assert path.read_text() == text
    assert [line for line in text.splitlines() if '"live_peak_bytes": 1048576000' in line]
    assert read_baseline(path)["tests/test_x.py::test_it: touch"].reproduce == "pytest tests/test_x.py::test_it"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a baseline"),
        ("[]", "no cells"),
        ("{}", "no cells"),
        ('{"baseline_version": 1, "cells": {}}', "has no cells"),
        (
            '{"baseline_version": 9, "cells": {"a": {}}}',
            r"another version of splade-bench \(baseline_version 9; this one reads 1\); measure again",
        ),
        ('{"baseline_version": 1, "cells": {"a": 1, "a": 2}}', "this file has a twice"),
        ('{"baseline_version": 1, "cells": {"a": {}}}', "a: Object missing required field status"),
    ],
)
def test_a_file_that_is_not_a_baseline_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)

    with pytest.raises(DataError, match=complaint):
        read_baseline(path)


@pytest.mark.parametrize("value", [-1, 2**61, 10**400, "many", True, None])
def test_absurd_figures_are_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, cells())
    record = json.loads(path.read_text())
    record["cells"][NAME]["figures"]["live_peak_bytes"] = value
    path.write_text(json.dumps(record))

    with pytest.raises(DataError, match=f"{NAME}: live_peak_bytes .* is (not a number|out of range)"):
        read_baseline(path)


@pytest.mark.parametrize(
    "field", ["status", "conditions", "figures", "live_peak_by_category", "memray_top_sites", "runs"]
)
@pytest.mark.parametrize("value", [None, True, "x", [1], [{"site": 1}], {"x": "y"}, {"x": None}, -1, 2.5, 10**400])
def test_a_damaged_cell_is_refused_in_one_line_or_judged(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, cells())
    record = json.loads(path.read_text())
    record["cells"][NAME][field] = value
    path.write_text(json.dumps(record))

    try:
        damaged = read_baseline(path)
    except DataError as error:
        message = str(error)
    else:
        message = f"{NAME}: judged"
        for current, baseline in ((cells(), damaged), (damaged, cells())):
            verdict_lines(check(current, baseline, DEFAULT_RULES))

    assert f"{NAME}: " in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [None, True, "x", [1], {"x": 1}, -1, 2.5, 10**400])
@pytest.mark.parametrize("name", ["memory_bytes", "processor", "torch", "max_steps"])
def test_an_odd_condition_of_a_baseline_differs(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, cells(make_result(max_steps=3)))
    record = json.loads(path.read_text())
    record["cells"][NAME]["conditions"][name] = value
    path.write_text(json.dumps(record))

    verdict = check(cells(make_result(max_steps=3)), read_baseline(path), [parse_rule("peak_rss_bytes:1%")])

    assert verdict.exit_code == 3
    assert f"{name} " in verdict.not_evaluated[0]


def test_absurd_results_and_runs_recorded_twice_are_refused() -> None:
    with pytest.raises(DataError, match=r"live_peak_bytes -5 is out of range"):
        cells(make_result(live_peak_bytes=-5))
    with pytest.raises(DataError, match=r"recorded twice"):
        cells(make_result(), make_result())


def test_runs_of_one_cell_must_be_of_one_kind() -> None:
    with pytest.raises(DataError, match=r"its runs were made under different conditions \(processor"):
        cells(make_result(round=1), make_result(round=2, machine={**MACHINE, "processor": "Other"}))
    with pytest.raises(DataError, match=r"its runs were made under different conditions \(source_tree"):
        cells(make_result(round=1), make_result(round=2, source_tree="x"))
    with pytest.raises(DataError, match=r"its runs were made under different conditions \(max_steps"):
        cells(make_result(round=1), make_result(round=2, max_steps=3))


def test_of_a_file_that_was_appended_to_the_newest_session_of_each_cell_counts() -> None:
    old = [make_result(session="a", started_at=f"2026-01-0{n}", round=n, peak_rss_bytes=1) for n in (1, 2)]
    other = make_call_result("only then", session="a", started_at="2026-01-01")
    new = [make_result(session="b", started_at=f"2026-02-0{n}", round=n) for n in (1, 2)]

    assert newest_sessions([*old, other, *new]) == [other, *new]
    assert only_in_earlier_sessions([*old, other, *new]) == ["only then"]


def test_the_rounds_of_a_cell_may_be_in_several_shards() -> None:
    old = make_result(session="a", started_at="2026-01-01", round=1)
    rounds = [make_result(session=f"s{n}", shard=f"{n}/2", started_at=f"2026-02-0{n}", round=n) for n in (1, 2)]
    call = make_call_result("in the first", session="s1", shard="1/2", started_at="2026-02-01")

    assert newest_sessions([old, *rounds, call]) == [*rounds, call]
    assert only_in_earlier_sessions([old, *rounds, call]) == []


def test_a_round_that_is_in_another_shard_now_counts_in_the_newer_session_only() -> None:
    first, second, again = (
        make_result(session=session, shard=shard, round=number, started_at=day)
        for session, shard, number, day in (
            *(("a", "1/2", 1, "2026-01-01"), ("a", "1/2", 2, "2026-01-02")),
            ("b", "2/2", 1, "2026-05-01"),
        )
    )

    assert newest_sessions([first, second, again]) == [second, again]


def test_of_what_a_session_tried_again_the_last_try_counts() -> None:
    bad = make_result(session="a", started_at="2026-01-01", round=1, status="nan")
    killed = make_result(session="a", started_at="2026-01-02", round=2, status="killed")
    again = [make_result(session="a", started_at=f"2026-01-0{n}", round=n - 1) for n in (3, 4)]

    assert newest_sessions([bad, killed, *again]) == [bad, *again]
    assert gated_cells(newest_sessions([bad, killed, *again]))[NAME].status == "nan", "not made up for"
    assert newest_sessions([bad, killed]) == [bad, killed]
    call = make_call_result("twice in a test", session="a", started_at="2026-01-01")
    assert newest_sessions([call, replace(call, started_at="2026-01-02")])[0] == call, "both are runs of it"


def test_a_run_that_died_without_a_word_is_held_against_nothing_it_did_not_say() -> None:
    silent = {name: value for name, value in MACHINE.items() if name not in ("threads", "device")}
    died = make_result(round=1, status="timeout", machine=silent, corpus_sha256=None)

    for runs in ([died, make_result(round=2)], [make_result(round=1), replace(died, round=2)]):
        cell = cells(*runs)[NAME]
        assert cell.status == "timeout"
        assert cell.conditions["threads"] == MACHINE["threads"]
    assert cells(died)[NAME].status == "timeout"


def test_a_fault_does_not_become_the_baseline(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"not written: {NAME} has the status nan"):
        write_baseline(tmp_path / "baseline.json", cells(make_result(status="nan")))
    with pytest.raises(DataError, match=f"not written: {NAME}: its live pass failed: error: boom"):
        write_baseline(tmp_path / "baseline.json", cells(make_result(pass_errors={"live": "error: boom"})))
