"""A project whose files have the names of standard modules: no process of ours imports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.protocol import CallRequest
from splade_bench.processes import module_command

MINE = "raise RuntimeError(f'{__name__}: a file of the project, not the standard module')\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file for each standard module, and a function to measure."""
    for name in sys.stdlib_module_names:
        (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / "mine.py").write_text("def work():\n    return len(bytes(2**20))\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_measured_call_and_its_passes_use_the_standard_modules(project: Path) -> None:
    path = [str(project), *sys.path]
    request = CallRequest(module="mine", file=str(project / "mine.py"), function="work", path=path)

    result = CallRunner(timeout_s=60, memory_passes=("heap", "live", "pinned")).measure("a call", request)

    assert (result.status, result.error, result.pass_errors) == ("ok", None, None)
    assert result.value == 2**20
    assert result.memray_peak_bytes is not None
    assert result.memray_peak_bytes >= 2**20


def test_a_process_of_ours_has_no_current_folder_in_its_path_and_this_package(project: Path) -> None:
    (project / "splade_bench").mkdir()
    (project / "splade_bench" / "__init__.py").write_text(MINE)
    command = module_command("splade_bench.processes")

    finished = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stderr) == (0, "")
