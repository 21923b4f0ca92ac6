"""The command that measures all committed results: its parts can be run, and each page has one."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import pytest
from measure import ELSEWHERE, PARTS, Part

from splade_bench.grid.sweep import PROFILES

ROOT = Path(__file__).parents[2]
BY_HAND = {"CASES.md", "GATE.md", "NEGATIVE.md"}
MAX_MINUTES, MAX_MINUTES_OF_PAGES = 100, 360


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is measured; committed results and pages are elsewhere too."""
    monkeypatch.setattr(measure, "FOLDER", tmp_path / "measured")
    monkeypatch.setattr(measure, "REPORTS", tmp_path / "reports")
    (tmp_path / "reports" / "results").mkdir(parents=True)
    for name in ("old.jsonl", *ELSEWHERE):
        (tmp_path / "reports" / "results" / name).write_text("{}\n")
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
                file.write(json.dumps({"source_tree": "tree", "command": len(done)}) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(measure, "source_tree", lambda: "tree")
    return done


def test_each_page_and_log_has_a_part_or_is_written_by_hand() -> None:
    committed = {path.name for path in (ROOT / "reports").iterdir() if path.suffix in (".md", ".log")}

    written = {name for part in PARTS for name in part.writes}
    assert committed - written == BY_HAND
    assert {name for name in written if name.endswith(".md")} <= committed


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


def test_what_another_source_tree_measured_goes_and_the_own_stays(folder: Path, runs: list[list[str]]) -> None:
    (part,) = (part for part in PARTS if part.name == "head")
    part.results_path.parent.mkdir(parents=True)
    part.results_path.write_text('{"source_tree": "older"}\n')
    part.mark.write_text("older 0\n")

    for _ in range(2):
        assert measure.main(["head"]) == 0
        assert part.results_path.read_text() == '{"source_tree": "tree", "command": 1}\n'
    part.mark.unlink()
    assert measure.main(["head"]) == 0

    assert len(runs) == 2
    assert len(part.results_path.read_text().splitlines()) == 2


def test_a_failed_test_is_told_and_an_interrupt_is_no_measurement(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits = iter([2, 1])
    monkeypatch.setattr(subprocess, "run", lambda command, cwd: subprocess.CompletedProcess(command, next(exits)))

    with pytest.raises(SystemExit, match="2"):
        measure.main(["head"])
    assert list(folder.glob("*.done")) == []
    assert measure.main(["head"]) == 1

    assert "a test failed: head" in capsys.readouterr().out
    assert [path.name for path in folder.glob("*.done")] == ["head.done"]
