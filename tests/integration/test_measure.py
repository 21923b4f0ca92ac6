"""The command that measures all committed results: its parts can be run, and each page has one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import pytest
from measure import ELSEWHERE
from parts import EXTRAS, PARTS, Part

from splade_bench import report
from splade_bench.grid.sweep import PROFILES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
BY_HAND = {"CASES.md", "GATE.md", "NEGATIVE.md"}
MAX_MINUTES, MAX_MINUTES_OF_PAGES = 100, 360
(HEAD,) = (part for part in PARTS if part.name == "head")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is measured, in a small copy of the repository, with every extra installed."""
    benchmarks, results = tmp_path / "benchmarks", tmp_path / "reports" / "results"
    for path in (benchmarks, results, tmp_path / "docs"):
        path.mkdir(parents=True)
    for name in ("test_head.py", "test_peers.py", "head_alone.py"):
        (benchmarks / name).write_text("")
    for name in ("old.jsonl", *ELSEWHERE):
        (results / name).write_text("{}\n")
    (tmp_path / "README.md").write_text("old")
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "BENCHMARKS", benchmarks)
    monkeypatch.setattr(measure, "FOLDER", tmp_path / "measured")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return tmp_path / "measured"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, each with one record for its results file."""
    done: list[list[str]] = []

    def run(command: list[str], cwd: Path) -> Any:
        done.append(command)
        if "--memory-results" in command:
            path = Path(command[command.index("--memory-results") + 1])
            with path.open("a") as file:
                file.write(json.dumps({"command": len(done)}) + "\n")
        elif "report" in command:
            readme = Path(next(word for word in command if word.endswith("README.md")))
            readme.write_text(f"new from {readme.read_text()}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return done


def test_each_page_and_log_has_a_part_or_is_written_by_hand() -> None:
    committed = {path.name for path in (ROOT / "reports").iterdir() if path.suffix in (".md", ".log")}
    modules = [
        importlib.import_module(f"{report.__name__}.{found.name}") for found in pkgutil.iter_modules(report.__path__)
    ]

    written = {name for part in PARTS for name in part.writes}
    assert committed - written == BY_HAND
    assert {name for name in written if name.endswith(".md")} == {
        f"{module.PAGE_NAME}.md" for module in modules if hasattr(module, "PAGE_NAME")
    }


def test_the_extras_of_parts_exist() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert {part.extra for part in PARTS if part.extra} == {*EXTRAS} <= {*settings["project"]["optional-dependencies"]}


def test_results_from_elsewhere_are_committed() -> None:
    assert {*ELSEWHERE} <= {path.name for path in (ROOT / "reports" / "results").iterdir()}


def test_the_pages_take_six_hours_in_parts() -> None:
    assert max(part.minutes for part in PARTS) <= MAX_MINUTES
    assert sum(part.minutes for part in PARTS if part.has_page) <= MAX_MINUTES_OF_PAGES
    assert len({part.name for part in PARTS}) == len(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_files_and_profiles_of_a_part_exist(part: Part) -> None:
    for command in part.commands:
        file, *flags = shlex.split(command)
        profiles = [value for flag, value in pairwise(flags) if flag == "--profile"]

        assert (ROOT / file).is_file()
        assert set(profiles) <= {*PROFILES, "accelerator"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for part in PARTS for one in part.commands if " -k " in one])
def test_a_command_that_chooses_tests_finds_some(command: str) -> None:
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", *shlex.split(command), "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert collected.returncode == 0, collected.stdout


def test_the_pages_come_once_all_parts_of_pages_are_measured(folder: Path, runs: list[list[str]]) -> None:
    results = folder.parent / "reports" / "results"

    assert measure.main(["head"]) == 0
    assert {path.name for path in results.iterdir()} == {"old.jsonl", *ELSEWHERE}
    assert measure.main([]) == 0

    of_pages = [part for part in PARTS if part.has_page]
    assert {path.name for path in results.iterdir()} == {*ELSEWHERE, *(f"{part.name}.jsonl" for part in of_pages)}
    assert len(runs) == sum(len(part.commands) for part in of_pages) + 1
    assert runs[-1][2:4] == ["splade_bench", "report"]
    assert (folder.parent / "README.md").read_text() == "new from old"


def test_what_is_committed_stays_if_the_report_fails(
    folder: Path, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run

    def fail_to_report(command: list[str], cwd: Path) -> Any:
        return subprocess.CompletedProcess(command, 2 * ("report" in command) or run(command, cwd=cwd).returncode)

    monkeypatch.setattr(subprocess, "run", fail_to_report)

    assert measure.main([]) == 1

    results = folder.parent / "reports" / "results"
    assert {path.name for path in results.iterdir()} == {"old.jsonl", *ELSEWHERE}
    assert (folder.parent / "README.md").read_text() == "old"
    assert "are as they were" in capsys.readouterr().out


def test_a_part_is_measured_again_if_what_it_measures_has_changed(
    folder: Path, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_again() -> bool:
        before = len(runs)
        assert measure.main(["head"]) == 0
        assert len(measure.results_path(HEAD).read_text().splitlines()) == len(HEAD.commands)
        return len(runs) > before

    assert measured_again()
    assert not measured_again()
    (folder.parent / "benchmarks" / "test_peers.py").write_text("another part's")
    assert not measured_again()
    for name in ("test_head.py", "head_alone.py"):
        (folder.parent / "benchmarks" / name).write_text("changed")
        assert measured_again()
    for name, value in (("source_tree", "another"), ("versions", {"torch": "another"})):
        monkeypatch.setattr(measure, name, lambda value=value: value)
        assert measured_again()
    measure.state_path(HEAD).unlink()
    assert measured_again()


def test_a_part_that_was_interrupted_keeps_what_it_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, runs: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run

    def interrupted(command: list[str], cwd: Path) -> Any:
        run(command, cwd=cwd)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupted)
        assert measure.main(["head"]) == 130
    *_, line = capsys.readouterr().out.splitlines()
    assert line == "interrupted: what is recorded stays, and the same command goes on with the rest"

    assert measure.main(["head"]) == 0
    assert len(measure.results_path(HEAD).read_text().splitlines()) == 1 + len(HEAD.commands)


def test_a_part_without_its_extra_is_skipped_and_said_to_be_missing(
    folder: Path, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else name)

    assert measure.main([]) == 1

    said = capsys.readouterr().out
    assert "sentence-transformers: skipped; it needs pip install 'splade-bench[sentence-transformers]'" in said
    assert said.endswith("still to measure: sentence-transformers\n")


def test_a_failed_test_is_told_and_an_end_of_pytest_is_no_measurement(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits = iter([2, 1])
    monkeypatch.setattr(subprocess, "run", lambda command, cwd: subprocess.CompletedProcess(command, next(exits)))

    with pytest.raises(SystemExit, match="2"):
        measure.main(["head"])
    assert measure.exit_code_of(HEAD) is None
    assert measure.main(["head"]) == 1

    assert "a test failed: head" in capsys.readouterr().out
    assert measure.exit_code_of(HEAD) == 1
