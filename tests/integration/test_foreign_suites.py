"""Installed beside a project that does not use it, the plugin changes nothing: not a line of the output, not a file."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SUITES = Path(__file__).parent.parent / "support" / "foreign_suites"
PLUGIN = "splade_bench.pytest_plugin"
# Folders that Python and pytest write, with names that differ from run to run.
_CACHES = ("__pycache__", ".pytest_cache", ".benchmarks")


@dataclass(frozen=True)
class Run:
    """What a run of a suite tells and leaves behind."""

    exit_code: int
    lines: list[str]
    files: set[str]


def run_suite(name: str, folder: Path, site: Path, *arguments: str) -> Run:
    project = Path(shutil.copytree(SUITES / name, folder / "project"))
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "COLUMNS": "120"}
    environment.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD", None)
    command = [sys.executable, "-m", "pytest", *arguments, f"--basetemp={folder / 'tmp'}"]
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    text = finished.stdout + finished.stderr
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    kept = {file for file in files if not any(cache in file for cache in _CACHES)}
    shutil.rmtree(folder / "project")
    lines = [line for line in map(_steady, text.splitlines()) if line]
    if "-n" in arguments:  # two processes: their tests come in any order
        lines = sorted(line for line in lines if not re.match(r"[.sFxXE]+ +\[|\[gw|bringing up|table = ", line))
    return Run(finished.returncode, lines, kept)


def _steady(line: str) -> str:
    """A line of pytest without what differs between two runs: times, and which of two processes ran a test."""
    if line.startswith(("plugins: ", "created: ")) or "worker" in line or re.match(r"^test_benchmark ", line):
        return ""
    line = re.sub(r"-{5,}.*|={2,}", "", line)
    return re.sub(r"\d+\.\d+s( \(.*\))?", "", re.sub(r"Name \(time in .*", "", line)).strip()


def suites() -> list[object]:
    found: list[object] = [pytest.param(name, (), id=name) for name in ("plain", "unittests", "options")]
    missing = importlib.util.find_spec("xdist") is None
    marks = pytest.mark.skipif(missing, reason="pytest-xdist is not installed here")
    return [*found, pytest.param("options", ("-n", "2", "-q", "-rA"), id="options in two processes", marks=marks)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), suites())
def test_the_outcome_of_a_foreign_suite_is_the_same_with_the_plugin(
    name: str, arguments: tuple[str, ...], wheel: Path, tmp_path: Path
) -> None:
    without = run_suite(name, tmp_path, wheel, *arguments, "-p", f"no:{PLUGIN}")
    beside = run_suite(name, tmp_path, wheel, *arguments)

    assert without.exit_code == pytest.ExitCode.TESTS_FAILED
    assert any("1 skipped" in line for line in without.lines), without.lines
    assert beside == without


@pytest.mark.slow
def test_the_plugin_was_there(wheel: Path, tmp_path: Path) -> None:
    text = " ".join(run_suite("plain", tmp_path, wheel, "--help").lines)

    assert "--memory-results" in text
