"""The examples in the documents run exactly as they are written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def examples(document: str) -> list[str]:
    """The blocks of Python code in a document; those of a list are indented."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)]


def example(document: str) -> str:
    """The one block of Python code in a document."""
    (code,) = examples(document)
    return code


@pytest.mark.slow
def test_the_example_of_the_library_trains_and_saves_a_model(tmp_path: Path) -> None:
    code, fitted, checkpoints = examples("docs/library.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 26

    finished = subprocess.run(
        [sys.executable, "-c", f"{code}\n{fitted}\n{checkpoints}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert finished.returncode == 0, finished.stderr
    before, after = (float(value) for value in re.findall(r"0\.\d{3}", finished.stdout)[-2:])
    assert after > before
    assert (tmp_path / "my-splade" / "model.safetensors").is_file()
    assert {path.name for path in (tmp_path / "my-run").iterdir()} == {"checkpoint-20", "checkpoint-40"}


def test_the_example_of_the_plugin_measures_another_project(tmp_path: Path) -> None:
    (tmp_path / "test_index.py").write_text(example("README.md"))
    (tmp_path / "mypackage.py").write_text("def build_index(path):\n    return len(bytearray(64 * 2**20))\n")

    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "splade_bench.pytest_plugin", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "2 passed" in finished.stdout


def test_the_guide_of_the_plugin_has_the_readmes_example() -> None:
    assert example("docs/measure-your-own-code.md") == example("README.md")


@pytest.mark.parametrize("environment", ["bench", "test"])
def test_both_commands_are_lines_of_the_readme_as_ci_and_newcomers_use_them(environment: str) -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert f"python -m pip install tox && python -m tox run -e {environment}" in lines
