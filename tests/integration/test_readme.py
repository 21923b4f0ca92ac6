"""The README's examples are run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def examples() -> list[str]:
    """The README's Python blocks: the trainer, the plugin."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readmes_example_trains_and_saves_a_model(tmp_path: Path) -> None:
    example = examples()[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 26

    finished = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )

    assert finished.returncode == 0, finished.stderr
    before, after = (float(value) for value in re.findall(r"0\.\d{3}", finished.stdout)[-2:])
    assert after > before
    assert (tmp_path / "my-splade" / "model.safetensors").is_file()


def test_the_readmes_example_of_the_plugin_measures_another_project(tmp_path: Path) -> None:
    (tmp_path / "test_index.py").write_text(examples()[1])
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


def test_both_commands_are_there_as_ci_and_newcomers_use_them() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert "python -m pip install tox && python -m tox run -e bench" in lines
    assert "python -m pip install tox && python -m tox run -e test" in lines
