"""The gate fails on what is worse, missing or newly failing, and never passes for want of something to judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gated import MACHINE, NAME, VERSIONS, cells, make_result
from results import MIB, make_call_result

from splade_bench.errors import ConfigError
from splade_bench.gate.cells import GatedCell
from splade_bench.gate.rules import DEFAULT_RULES, parse_rule
from splade_bench.gate.verdict import check, require_comparable, verdict_lines


def test_the_same_results_pass() -> None:
    verdict = check(cells(), cells(), DEFAULT_RULES)

    assert (verdict.exit_code, verdict.evaluated) == (0, 4)
    sensitivity, summary = verdict_lines(verdict)
    assert sensitivity.startswith("smallest regressions noticed: live_peak_bytes 1.0%, ")
    assert summary == "regressions: 0, figures checked: 4"


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"live_peak_bytes": 1020 * MIB}, "live_peak_bytes"),
        ({"peak_rss_bytes": 1700 * MIB}, "peak_rss_bytes"),
        ({"final_loss": 2.2}, "final_loss"),
        ({"metrics": {"mrr@10": 0.15}}, "mrr@10"),
        ({"metrics": None}, "mrr@10"),
        ({"live_peak_bytes": None}, "live_peak_bytes"),
        ({"status": "oom"}, "status"),
        ({"status": "nan"}, "status"),
    ],
)
def test_what_is_worse_lost_or_newly_failing_is_a_regression(changes: dict[str, Any], metric: str) -> None:
    verdict = check(cells(make_result(**changes)), cells(), DEFAULT_RULES)

    assert [regression.metric for regression in verdict.regressions] == [metric]
    assert verdict.exit_code == 1
    assert "--memory-modes standard" in next(line for line in verdict_lines(verdict) if "reproduce: " in line)


def test_a_figure_whose_memory_pass_failed_is_a_regression_with_the_reason() -> None:
    failed = make_result(live_peak_bytes=None, pass_errors={"live": "killed: ended by signal SIGKILL"})

    (regression,) = check(cells(failed), cells(), DEFAULT_RULES).regressions

    assert (regression.metric, regression.current) == ("live_peak_bytes", "not measured")
    assert regression.blame == ["the live pass failed: killed: ended by signal SIGKILL"]
    elsewhere = replace(failed, versions={**VERSIONS, "torch": "2.14.1"})
    assert check(cells(elsewhere), cells(), DEFAULT_RULES).exit_code == 1


def test_another_runs_figure_does_not_make_up_for_a_memory_pass_that_failed() -> None:
    failed = make_result(round=2, live_peak_bytes=None, pass_errors={"live": "timeout: took longer than 1 s"})

    verdict = check(cells(make_result(round=1), failed), cells(), DEFAULT_RULES)

    assert [regression.metric for regression in verdict.regressions] == ["live_peak_bytes"]


def test_the_plan_is_gated_exactly_and_anywhere() -> None:
    baseline = cells(make_result(planned_live_peak_bytes=1000))
    rules = [parse_rule("planned_live_peak_bytes:0%")]
    elsewhere = {**MACHINE, "processor": "Other", "threads": 8}

    same = check(cells(make_result(planned_live_peak_bytes=1000, machine=elsewhere)), baseline, rules)
    worse = check(cells(make_result(planned_live_peak_bytes=1001, machine=elsewhere)), baseline, rules)

    assert (same.exit_code, same.evaluated) == (0, 1)
    assert [regression.metric for regression in worse.regressions] == ["planned_live_peak_bytes"]
    lost = check(cells(make_result(pass_errors={"plan": "error: TypeError: x"})), baseline, rules)
    assert lost.regressions[0].blame == ["the plan pass failed: error: TypeError: x"]


def test_a_failed_memory_pass_is_no_fault_of_figures_that_it_does_not_take() -> None:
    failed = make_result(pass_errors={"heap": "error: MemoryError"})

    verdict = check(cells(failed), cells(), [*DEFAULT_RULES, parse_rule("memray_peak_bytes:1%")])

    assert (verdict.exit_code, verdict.evaluated) == (0, 4)
    assert f"{NAME}  memray_peak_bytes:1%: the heap pass failed: error: MemoryError" in verdict.not_evaluated


def test_a_missing_cell_is_a_regression_and_a_new_one_a_note() -> None:
    other = make_result(memory_mode="article")

    verdict = check(cells(other), cells(), DEFAULT_RULES)

    assert [(one.cell, one.current) for one in verdict.regressions] == [(NAME, "missing")]
    assert verdict.notes == ["tiny-cpu-b8-a1-article-seed42: new, not in the baseline"]


def test_a_regression_says_which_category_and_phase_grew_and_where_it_was_allocated() -> None:
    before = make_result(memray_top_sites=[{"site": "head.py:3 splade_max", "size_bytes": 10 * MIB}])
    after = make_result(
        live_peak_bytes=1100 * MIB,
        live_peak_by_category={"parameters": 100 * MIB, "logits": 980 * MIB, "temporaries": 20 * MIB},
        live_peak_by_phase={"forward": 1000 * MIB, "backward": 1100 * MIB},
        live_peak_operator="aten.add",
        memray_top_sites=[
            {"site": "head.py:3 splade_max", "size_bytes": 90 * MIB},
            {"site": "step.py:9 step", "size_bytes": 5 * MIB},
        ],
    )

    (regression,) = check(cells(after), cells(before), [parse_rule("live_peak_bytes:1%")]).regressions

    assert regression.sentence == (
        f"{NAME}  live_peak_bytes  1000 MiB (1048576000 bytes) → 1100 MiB (1153433600 bytes) (+10.0%)  "
        "limit 1010 MiB (1059061760 bytes) (rule live_peak_bytes:1%)"
    )
    assert regression.blame == [
        "category logits: 900 MiB → 980 MiB (+83886080 bytes)",
        "category temporaries: 0 MiB → 20 MiB (+20971520 bytes)",
        "phase backward: 900 MiB → 1100 MiB (+209715200 bytes)",
        "operator at the peak: aten.mm → aten.add",
        "allocated at head.py:3 splade_max: 10 MiB → 90 MiB",
        "allocated at step.py:9 step: not among the largest → 5 MiB",
    ]


def test_peaks_that_vary_are_the_smallest_of_the_runs_and_live_bytes_the_largest() -> None:
    runs = [
        make_result(round=number, peak_rss_bytes=rss * MIB, live_peak_bytes=live * MIB, final_loss=loss)
        for number, rss, live, loss in ((1, 1600, 1000, 2.0), (2, 1500, 1001, 9.0), (3, 1900, 1000, 2.1))
    ]

    (cell,) = cells(*runs).values()

    assert cell.figures["peak_rss_bytes"] == 1500 * MIB
    assert cell.figures["live_peak_bytes"] == 1001 * MIB
    assert cell.figures["final_loss"] == 2.1
    assert cell.runs == 3


def test_a_cell_of_which_one_run_died_is_not_ok() -> None:
    (cell,) = cells(make_result(round=1), make_result(round=2, status="killed")).values()

    assert cell.status == "killed"


@pytest.mark.parametrize(("more_bytes", "evaluated"), [(450_560, 4), (2**30, 3)])
def test_machines_of_one_class_may_differ_by_a_little_memory(more_bytes: int, evaluated: int) -> None:
    other = make_result(machine={**MACHINE, "memory_bytes": MACHINE["memory_bytes"] + more_bytes})

    assert check(cells(other), cells(), DEFAULT_RULES).evaluated == evaluated


def test_on_another_machine_only_what_is_the_same_everywhere_decides() -> None:
    other = make_result(machine={**MACHINE, "processor": "Other"}, peak_rss_bytes=9000 * MIB)

    verdict = check(cells(other), cells(), DEFAULT_RULES)

    assert verdict.exit_code == 0
    assert verdict.evaluated == 3
    assert verdict.not_evaluated == [
        f"{NAME}  peak_rss_bytes:10%+16MiB: taken under other conditions: processor Test → Other"
    ]
    worse = replace(other, live_peak_bytes=1100 * MIB)
    assert check(cells(worse), cells(), DEFAULT_RULES).exit_code == 1


@pytest.mark.parametrize(
    ("changes", "rule", "differing"),
    [
        ({"machine": {**MACHINE, "huge_pages": "always"}}, "peak_rss_bytes:1%", "huge_pages madvise → always"),
        ({"machine": {**MACHINE, "allocator": "x"}}, "peak_rss_bytes:1%", "allocator glibc 2.36 → x"),
        ({"machine": {**MACHINE, "threads": 8}}, "memray_peak_bytes:1%", "threads 2 → 8"),
        ({"versions": {**VERSIONS, "torch": "2.14.1"}}, "live_peak_bytes:1%", "torch 2.13 → 2.14"),
        ({"corpus_sha256": "d"}, "mrr@10:0.03", "corpus_sha256 c → d"),
    ],
)
def test_where_nothing_can_be_compared_the_exit_code_says_so(
    changes: dict[str, Any], rule: str, differing: str
) -> None:
    baseline = cells(make_result(memray_peak_bytes=5))

    verdict = check(cells(make_result(memray_peak_bytes=5, **changes)), baseline, [parse_rule(rule)])

    assert verdict.exit_code == 3
    assert differing in verdict.not_evaluated[0]


def test_a_patch_release_of_torch_is_the_same() -> None:
    patched = make_result(versions={**VERSIONS, "torch": "2.13.1"})

    assert check(cells(patched), cells(), DEFAULT_RULES).exit_code == 0


def test_no_figure_to_judge_is_no_pass() -> None:
    bare = make_result(live_peak_bytes=None, peak_rss_bytes=None, final_loss=None, metrics=None)

    assert check(cells(bare), cells(bare), DEFAULT_RULES).exit_code == 3


def test_an_improvement_asks_for_a_new_baseline() -> None:
    verdict = check(cells(make_result(live_peak_bytes=500 * MIB)), cells(), DEFAULT_RULES)

    assert verdict.exit_code == 0
    assert "-50.0%" in verdict.notes[0]
    assert "--update-baseline" in verdict.notes[0]


def test_a_cell_that_ran_out_of_memory_before_too_is_fine_and_a_note_when_it_no_longer_does() -> None:
    oom = make_result(status="oom", live_peak_bytes=None)

    assert check(cells(oom), cells(oom), DEFAULT_RULES).regressions == []
    nan = make_result(status="nan")
    assert check(cells(nan), cells(nan), DEFAULT_RULES).exit_code == 1  # never a known state
    assert check(cells(oom, make_result(memory_mode="article")), cells(oom), DEFAULT_RULES).exit_code == 3
    assert "oom before, ok now" in check(cells(), cells(oom), DEFAULT_RULES).notes[0]


def test_a_rule_with_nothing_to_judge_is_listed() -> None:
    rules = [parse_rule(text) for text in ("live_peak_bytes:1%", "memray_peak_bytes:1%", "live_peak_bytes:1%:bsae-*")]

    verdict = check(cells(), cells(), rules)

    assert verdict.exit_code == 0
    assert verdict.not_evaluated == [
        "memray_peak_bytes:1%: no cell of the baseline has that figure",
        "live_peak_bytes:1%:bsae-*: no cell of the baseline has a name that fits",
    ]


def test_a_hostile_name_stays_on_its_line() -> None:
    hostile = make_call_result("x\x1b[31m\ny", status="oom", started_at="t")

    lines = verdict_lines(check(cells(hostile), cells(replace(hostile, status="ok")), DEFAULT_RULES))

    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_a_baseline_of_another_torch_is_refused_before_anything_runs() -> None:
    here = {"torch": "2.14", "processor": "Test"}

    with pytest.raises(ConfigError, match=r"this baseline cannot be compared on this machine: torch 2.13 → 2.14"):
        require_comparable(cells(), DEFAULT_RULES, here)
    require_comparable(cells(), DEFAULT_RULES, {"torch": "2.13", "processor": "Other"})


def test_case_13_a_verdict_says_which_figures_leave_out_child_processes() -> None:
    def call(**changes: Any) -> dict[str, GatedCell]:
        figures = {"peak_rss_bytes": 400 * MIB, "memray_peak_bytes": MIB}
        return cells(make_call_result(machine=MACHINE, versions=VERSIONS, **(figures | changes)))

    assert "child" not in " ".join(check(call(child_processes=0), call(), DEFAULT_RULES).notes)

    (note,) = check(call(child_processes=3), call(child_processes=2), DEFAULT_RULES).notes

    assert note == (
        "tests/test_x.py::test_it: touch: child processes: 3 (2 before); only peak_rss_bytes counts their memory, "
        "sampled, not memray_peak_bytes"
    )
