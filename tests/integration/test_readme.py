"""The README's example is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_readmes_example_trains_and_saves_a_model(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 26

    finished = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )

    assert finished.returncode == 0, finished.stderr
    before, after = (float(value) for value in re.findall(r"0\.\d{3}", finished.stdout)[-2:])
    assert after > before
    assert (tmp_path / "my-splade" / "model.safetensors").is_file()


def test_both_commands_are_there_as_ci_and_newcomers_use_them() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert "python -m pip install tox && python -m tox run -e bench" in lines
    assert "python -m pip install tox && python -m tox run -e test" in lines
