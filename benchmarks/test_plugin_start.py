"""How much longer pytest takes to start where the plugin is installed and nothing uses it, in processor time."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "splade_bench.pytest_plugin"
RUNS = 9
AT_MOST_S = 0.2


def start_s(project: Path, *arguments: str) -> float:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *arguments]
    before = os.times()
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.takes_long
@pytest.mark.skipif(sys.platform == "win32", reason="does not say what child processes took")
def test_the_plugin_adds_a_fifth_of_a_second_at_most(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke checks no times: it may run on busy machines")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    start_s(tmp_path, "-p", PLUGIN)  # compiles what is not compiled yet
    runs = [(start_s(tmp_path, "-p", f"no:{PLUGIN}"), start_s(tmp_path, "-p", PLUGIN)) for _ in range(RUNS)]

    without_s, beside_s = (statistics.median(times) for times in zip(*runs, strict=True))
    assert beside_s - without_s <= AT_MOST_S, f"{without_s:.2f} s without, {beside_s:.2f} s with the plugin"
