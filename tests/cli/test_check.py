"""The exit codes and the lines of ``splade-bench check``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from results import MIB, make_cell_result

from splade_bench.cli import main
from splade_bench.results.records import CellResult, append_result


def make_result(**changes: Any) -> CellResult:
    return make_cell_result(**{"live_peak_bytes": 100 * MIB, "versions": {"torch": "2.13.0"}, **changes})


@pytest.fixture
def baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    append_result(tmp_path / "before.jsonl", make_result())
    path = tmp_path / "baseline.json"
    arguments = ["--results", str(tmp_path / "before.jsonl"), "--baseline", str(path), "--update-baseline"]
    assert main(["check", *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    return path


def run_check(tmp_path: Path, baseline: Path, result: CellResult, *arguments: str) -> int:
    results = tmp_path / "after.jsonl"
    results.unlink(missing_ok=True)
    append_result(results, result)
    return main(["check", "--results", str(results), "--baseline", str(baseline), *arguments])


def test_each_outcome_has_its_exit_code(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = make_result(live_peak_bytes=102 * MIB)

    assert run_check(tmp_path, baseline, make_result()) == 0
    assert run_check(tmp_path, baseline, worse) == 1
    assert run_check(tmp_path, baseline, worse, "--fail-on", "live_peak_bytes:5%") == 0
    assert run_check(tmp_path, baseline, worse, "--fail-on", "live_peak_bytes:5%:other-*") == 3
    assert run_check(tmp_path, baseline, make_result(versions={"torch": "2.14.0"})) == 3
    assert "torch 2.13 → 2.14" in capsys.readouterr().out


def test_a_flag_that_is_given_again_adds_to_the_earlier_one(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = make_result(live_peak_bytes=102 * MIB)
    rules = ["live_peak_bytes:1%", "final_loss:5%"]

    assert run_check(tmp_path, baseline, worse, "--fail-on", rules[0], "--fail-on", rules[1]) == 1
    assert run_check(tmp_path, baseline, worse, "--fail-on", *rules) == 1
    capsys.readouterr()
    assert run_check(tmp_path, baseline, worse, "--results", str(tmp_path / "after.jsonl")) == 2
    assert "recorded twice" in capsys.readouterr().err


def test_a_regression_is_one_line_and_how_to_see_it(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_check(tmp_path, baseline, make_result(live_peak_bytes=102 * MIB))

    first, reproduce, _, summary = capsys.readouterr().out.splitlines()
    assert first.startswith("REGRESSION  tiny-cpu-b8-a1-standard-seed42  live_peak_bytes  100 MiB")
    assert "(+2.0%)  limit 101 MiB" in first
    assert "reproduce: pytest benchmarks/test_training_cells.py --device cpu --workload tiny" in reproduce
    assert summary == "regressions: 1, figures checked: 1"


def test_json_has_the_whole_verdict(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_check(tmp_path, baseline, make_result(status="nan"), "--json")

    verdict = json.loads(capsys.readouterr().out)
    assert verdict["exit_code"] == 1
    assert verdict["regressions"][0]["head"] == "nan"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--results", "after.jsonl", "--baseline", "nowhere.json"], "nowhere.json: the baseline cannot be read"),
        (["--results", "nowhere.jsonl", "--baseline", "baseline.json"], "nowhere.jsonl: cannot be read"),
        (["--results", "empty.jsonl", "--baseline", "baseline.json"], "empty.jsonl: no cell or call to check"),
        (["--results", "after.jsonl", "after.jsonl", "--baseline", "baseline.json"], "recorded twice"),
        (
            ["--results", "after.jsonl", "--baseline", "baseline.json", "--fail-on", "rss:1%"],
            "'rss' cannot be used in a rule",
        ),
        (["--baseline", "baseline.json"], "--results"),
    ],
)
def test_usage_and_bad_files_are_one_clear_line(
    tmp_path: Path,
    baseline: Path,
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    append_result(tmp_path / "after.jsonl", make_result(started_at="then"))
    (tmp_path / "empty.jsonl").write_text("")

    assert main(["check", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_it_needs_no_torch_and_takes_seconds_for_a_thousand_cells(tmp_path: Path, baseline: Path) -> None:
    """The bound itself is a benchmark's; here only that it is nowhere near a minute."""
    results = tmp_path / "many.jsonl"
    lines = [make_result(seed=seed).to_json() for seed in range(1000)]
    results.write_text("\n".join(lines) + "\n")
    script = (
        "import sys; from splade_bench.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); raise SystemExit(code)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, "check", "--results", str(results), "--baseline", str(baseline)],
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("note  ") == 999
