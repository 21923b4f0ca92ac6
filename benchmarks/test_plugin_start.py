"""How much longer pytest takes to start where the plugin is installed and nothing uses it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGIN = "splade_bench.pytest_plugin"
RUNS = 9
ALLOWED_S = 0.2


def start_s(project: Path, *arguments: str) -> float:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *arguments]
    begin_s = time.perf_counter()
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return time.perf_counter() - begin_s


def test_the_plugin_takes_little_time_at_the_start(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    without, beside = [], []
    start_s(tmp_path, "-p", PLUGIN)  # compiles what is not compiled yet
    for _ in range(RUNS):
        without.append(start_s(tmp_path, "-p", f"no:{PLUGIN}"))
        beside.append(start_s(tmp_path, "-p", PLUGIN))

    added_s = statistics.median(beside) - statistics.median(without)
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line(f"the plugin adds {added_s:.3f} s to {statistics.median(without):.2f} s")
    assert added_s <= ALLOWED_S
