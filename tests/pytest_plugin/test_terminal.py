"""The line of a cell that runs: rewritten on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 60
TESTS = """
import pytest
from splade_bench.bench.progress import Progress
from splade_bench.pytest_plugin.terminal import LiveLine, show_line

@pytest.mark.parametrize("number", [1, 2])
def test_it(number, pytestconfig):
    live = LiveLine(pytestconfig)
    print("captured")
    for step in range(1, 4):
        live.show(Progress(cell_id="a-cell" * number, doing="trains", step=step, steps=3, loss=2.0, left_s=0.0))
    live.show(Progress(cell_id="x" * 200, doing="heap pass"))
    live.show(None)
    show_line(f"row {number}", pytestconfig)
"""
COMMAND = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    return plain | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": str(WIDTH)} | changes


def on_terminal(folder: Path, *arguments: str, term: str = "xterm") -> str:
    """All that a run writes to a terminal."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment(TERM=term), stdin=child, stdout=child, stderr=child
    ) as process:
        os.close(child)
        written = b""
        try:
            while read := os.read(parent, 65536):
                written += read
        except OSError:  # Linux raises it when the last process has closed the terminal
            pass
    os.close(parent)
    assert process.returncode == 0, written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """The rows that a person sees at the end: a carriage return goes back to the left edge."""
    rows = []
    for row in written.split("\n"):
        shown = ""
        for part in row.rstrip("\r").split("\r"):
            shown = part + shown[len(part) :]
        rows.append(shown.rstrip())
    return rows


@pytest.mark.parametrize("arguments", [(), ("-v",), ("-s",), ("--color=no",), ("--capture=sys",)], ids=" ".join)
def test_on_a_terminal_one_line_is_written_again_in_its_place(folder: Path, arguments: tuple[str, ...]) -> None:
    written = on_terminal(folder, *arguments)

    assert written.count("a-cell  step") == 2 * 3
    assert "\ra-cell  step 2 of 3  loss 2.000  0.0 s left" in written
    assert f"\r{'x' * (WIDTH - 1)}" in written and "x" * WIDTH not in written
    rows = screen(written)
    assert [row for row in rows if row.startswith("row ")] == ["row 1", "row 2"]
    assert not [row for row in rows if "a-cell" in row or "xxx" in row]


@pytest.mark.parametrize("arguments", [("-q",), ("-q", "-s"), ("-p", "no:terminal")], ids=" ".join)
def test_who_asks_for_quiet_sees_no_line_in_its_place(folder: Path, arguments: tuple[str, ...]) -> None:
    written = on_terminal(folder, *arguments)

    assert "a-cell" not in written
    assert ("row 2" in written) == ("-q" in arguments)


def test_a_terminal_that_cannot_rewrite_gets_no_line_in_its_place(folder: Path) -> None:
    written = on_terminal(folder, term="dumb")

    assert "a-cell" not in written
    assert "row 2" in written


@pytest.mark.parametrize("arguments", [(), ("-v",), ("--color=yes",), ("-s",)], ids=" ".join)
def test_a_file_gets_a_row_for_each_cell_and_nothing_else(folder: Path, arguments: tuple[str, ...]) -> None:
    finished = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True, text=True)

    assert finished.returncode == 0, finished.stdout
    assert "a-cell" not in finished.stdout and "\r" not in finished.stdout
    assert finished.stdout.splitlines().count("row 1") == 1
