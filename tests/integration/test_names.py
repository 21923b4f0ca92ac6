"""A baseline in a project that is moved, as people move projects and tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = """\
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data.txt"


def read(path: str, times: int) -> int:
    return len(Path(path).read_bytes() * times)


@pytest.mark.parametrize("times", [pytest.param(3, id="few")])
def test_it(measure_memory, times):
    measure_memory(read, str(DATA), times)
"""
BASELINE = (
    "--memory-passes",
    "heap",
    "--memory-fail-on",
    "memray_peak_bytes:2%+1MiB",
    "--memory-baseline",
    "base.json",
)


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "splade_bench.pytest_plugin"]
    environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    finished = subprocess.run(
        [*command, *BASELINE, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_a_baseline_survives_another_root_folder_a_moved_test_and_a_renamed_parameter(tmp_path: Path) -> None:
    project = tmp_path / "one"
    (project / "tests").mkdir(parents=True)
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "tests" / "test_first.py").write_text(TEST)
    (project / "tests" / "data.txt").write_text("text")
    run(project, "--memory-update-baseline")
    assert str(project) not in (project / "base.json").read_text()

    project = project.rename(tmp_path / "two")
    assert "regressions: 0, figures checked: 1" in (shown := run(project))
    assert "moved" not in shown and "new" not in shown

    (project / "tests" / "test_first.py").rename(project / "tests" / "test_second.py")
    assert "test_second.py::test_it[few]: read('rootdir/tests/data.txt', 3): moved, tests/test_first.py" in run(project)

    (project / "tests" / "test_second.py").rename(project / "tests" / "test_first.py")
    (project / "tests" / "test_first.py").write_text(TEST.replace('"few"', '"three"'))
    assert "test_first.py::test_it[three]: read('rootdir/tests/data.txt', 3): moved" in run(project)
