"""A baseline survives another root folder, a renamed parameter and a moved test; what is unsure is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gated import MACHINE, VERSIONS, cells
from results import MIB, make_call_result, make_cell_result

from splade_bench.errors import ConfigError
from splade_bench.gate.cells import GatedCell
from splade_bench.gate.rules import parse_rule
from splade_bench.gate.verdict import check, require_cells, require_comparable, verdict_lines

RULES = [parse_rule("live_peak_bytes:1%")]
DIFFERENT = [pytest.param(live_mib, id=f"{live_mib}-MiB") for live_mib in (98, 102)]
OLD = "tests/memory/test_index.py::TestIt::test_it[small]: build('a: b', 3)"


def measured(*names: str, live_mib: int = 100, **changes: Any) -> dict[str, GatedCell]:
    """Calls of these names, measured by the tests in them."""
    return cells(
        *(
            make_call_result(
                name,
                test_id=name.rpartition(": build(")[0] or name.partition(": ")[0],
                **({"live_peak_bytes": live_mib * MIB, "machine": MACHINE, "versions": VERSIONS} | changes),
                started_at="then",
            )
            for name in names
        )
    )


under_another_name = pytest.mark.parametrize(
    "now",
    [
        pytest.param("memory/test_index.py::TestIt::test_it[small]: build('a: b', 3)", id="another-root-folder"),
        pytest.param("tests/memory/test_index.py::TestIt::test_it[tiny]: build('a: b', 3)", id="renamed-parameter"),
        pytest.param("tests/test_other.py::TestIt::test_it[small]: build('a: b', 3)", id="moved-test"),
    ],
)


@under_another_name
def test_a_call_is_judged_under_its_new_name(now: str) -> None:
    same = check(measured(now), measured(OLD), RULES)
    worse = check(measured(now, status="oom"), measured(OLD), RULES)

    assert (same.exit_code, same.evaluated) == (0, 1)
    (note,) = same.notes
    assert note.startswith(f"{now}: moved, {OLD} in the baseline; to make this the new baseline")
    assert [(regression.cell, regression.current) for regression in worse.regressions] == [(now, "oom")]


@under_another_name
@pytest.mark.parametrize("live_mib", DIFFERENT)
def test_a_call_with_other_figures_is_another_one(now: str, live_mib: int) -> None:
    verdict = check(measured(now, live_mib=live_mib), measured(OLD), RULES)

    (regression,) = verdict.regressions
    assert (regression.cell, regression.current) == (OLD, "missing")
    assert regression.blame == [
        f"perhaps renamed: {now} is new, with live_peak_bytes 100 MiB → {live_mib} MiB ({live_mib - 100:+.1f}%)"
    ]
    assert verdict.notes == [f"{now}: new, not in the baseline"]


def test_a_parameter_that_sizes_a_file_is_not_a_renamed_one() -> None:
    old = measured("test_x.py::test_it[10]: index('tmp_path/c')", live_mib=10)
    old |= measured("test_x.py::test_it[100]: index('tmp_path/c')", live_mib=100)
    now = measured("test_x.py::test_it[10]: index('tmp_path/c')", live_mib=10)
    now |= measured("test_x.py::test_it[50]: index('tmp_path/c')", live_mib=50)

    verdict = check(now, old, RULES)

    assert [(one.cell, one.current) for one in verdict.regressions] == [
        ("test_x.py::test_it[100]: index('tmp_path/c')", "missing")
    ]


@under_another_name
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"status": "oom"}, {}, id="ran-out-of-memory"),
        pytest.param({"machine": {}, "versions": {}}, {}, id="other-conditions"),
        pytest.param({}, {"live_peak_bytes": None}, id="nothing-to-compare"),
    ],
)
def test_a_call_is_not_moved_if_its_figures_cannot_show_it(
    now: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    verdict = check(measured(now, **after), measured(OLD, **before), RULES)

    assert [(regression.cell, regression.current) for regression in verdict.regressions] == [(OLD, "missing")]


def test_a_moved_call_that_lost_a_figure_is_measured_again_where_it_is_now() -> None:
    now = "tests/test_other.py::TestIt::test_it[small]: build('a: b', 3)"
    rules = [*RULES, parse_rule("memray_peak_bytes:1%")]

    (lost,) = check(measured(now), measured(OLD, memray_peak_bytes=5), rules).regressions

    assert (lost.cell, lost.metric, lost.current) == (now, "memray_peak_bytes", "not measured")
    assert lost.reproduce == "pytest 'tests/test_other.py::TestIt::test_it[small]'"


@pytest.mark.parametrize("cells", ["tests/memory/*", "memory/*"])
def test_a_rule_for_the_old_or_the_new_name_judges_a_moved_call(cells: str) -> None:
    rules = [parse_rule(f"live_peak_bytes:1%:{cells}")]
    now = "memory/test_index.py::TestIt::test_it[small]: build('a: b', 3)"

    require_comparable(measured(OLD), rules, {})
    verdict = check(measured(now), measured(OLD), rules)

    assert (verdict.exit_code, verdict.evaluated, verdict.not_evaluated) == (0, 1, [])


def test_a_renamed_test_with_another_figure_says_what_it_became_and_by_how_much() -> None:
    now = "tests/memory/test_index.py::test_new_name: build('a: b', 3)"
    elsewhere = {"machine": MACHINE | {"processor": "Other"}, "peak_rss_bytes": 2**30}

    (regression,) = check(
        measured(now, live_mib=150, **elsewhere), measured(OLD, peak_rss_bytes=2**29), RULES
    ).regressions

    assert regression.blame == [f"perhaps renamed: {now} is new, with live_peak_bytes 100 MiB → 150 MiB (+50.0%)"]


def test_nothing_is_said_of_figures_that_cannot_be_compared() -> None:
    now = "tests/memory/test_index.py::test_new_name: build('a: b', 3)"

    (regression,) = check(measured(now, live_peak_bytes=None), measured(OLD), RULES).regressions

    assert regression.blame == [f"perhaps renamed: {now} is new"]


@pytest.mark.parametrize("cells", ["tests/memory/*", "memory/*", "*", "tests/new.py*", "*build(?a:?b?,?3)"])
def test_a_rule_that_can_judge_a_call_of_the_baseline_or_a_test_is_taken(cells: str) -> None:
    ids = ["memory/test_index.py::TestIt::test_it[small]", "tests/new.py::test_it"]

    require_cells(measured(OLD), [parse_rule(f"live_peak_bytes:1%:{cells}")], ids)


@pytest.mark.parametrize("cells", ["tests/memroy/*", "memory/*", "bsae-*"])
def test_a_rule_that_can_judge_nothing_is_refused_with_its_name(cells: str) -> None:
    rule = f"live_peak_bytes:1%:{cells}"

    with pytest.raises(ConfigError) as refusal:
        require_cells(measured(OLD), [*RULES, parse_rule(rule)], ["tests/memory/test_index.py::TestIt::test_it[small]"])

    assert str(refusal.value) == (
        f"--memory-fail-on {rule}: no cell of the baseline has a name that fits {cells}; it has {OLD}"
    )


def test_a_test_that_measures_several_calls_moves_with_all_of_them() -> None:
    old = measured(*(f"a/test_x.py::test_it[{case}]: build({n})" for case, n in (("p", 1), ("p", 2), ("q", 1))))
    now = measured(*(f"b/test_x.py::test_it[{case}]: build({n})" for case, n in (("p", 1), ("p", 2), ("q", 1))))

    verdict = check(now, old, RULES)

    assert (verdict.exit_code, verdict.evaluated, len(verdict.notes)) == (0, 3, 3)


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(["tests/memory/test_index.py::test_new_name: build('a: b', 3)"], id="renamed-test"),
        pytest.param(["tests/memory/test_index.py::TestIt::test_it[small]: build('a: b', 4)"], id="other-call"),
        pytest.param(["tests/other.py::TestIt::test_it[x]: build('a: b', 4)"], id="moved-test-and-other-call"),
        pytest.param([f"{name}/test_x.py::TestIt::test_it[small]: build('a: b', 3)" for name in "ab"], id="ambiguous"),
    ],
)
def test_what_may_be_another_measurement_is_missing_and_says_what_it_may_have_become(now: list[str]) -> None:
    verdict = check(measured(*now), measured(OLD), RULES)

    (regression,) = verdict.regressions
    assert (regression.cell, regression.current) == (OLD, "missing")
    assert regression.blame == [f"perhaps renamed: {name} is new, with the same figures" for name in now]
    assert verdict.notes == [f"{name}: new, not in the baseline" for name in now]
    assert f"    perhaps renamed: {now[0]} is new, with the same figures" in verdict_lines(verdict)


def test_what_has_nothing_in_common_is_only_missing_and_new() -> None:
    verdict = check(measured("tests/test_x.py::test_it: other()"), measured(OLD), RULES)

    assert [regression.blame for regression in verdict.regressions] == [[]]
    assert len(verdict.notes) == 1


def test_many_candidates_are_counted() -> None:
    now = measured(*(f"{name}/test_x.py::test_new: build('a: b', 3)" for name in "abcde"))

    (regression,) = check(now, measured(OLD), RULES).regressions

    assert len(regression.blame) == 4
    assert regression.blame[-1] == "and 2 more"


def test_a_cell_is_another_one_under_another_name() -> None:
    one, other = (cells(make_cell_result(batch_size=size, started_at="then")) for size in (8, 16))

    assert [regression.current for regression in check(other, one, RULES).regressions] == ["missing"]


@pytest.mark.parametrize("reproduce", ["pytest 'half", "", "python x"])
def test_a_baseline_that_was_edited_is_only_missing(reproduce: str) -> None:
    edited = {name: replace(cell, reproduce=reproduce) for name, cell in measured(OLD).items()}
    now = measured("memory/test_index.py::TestIt::test_it[small]: build('a: b', 3)")

    assert [regression.current for regression in check(now, edited, RULES).regressions] == ["missing"]
