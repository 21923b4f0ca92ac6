"""The examples of the guide run exactly as they are written there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("sentence_transformers", "accelerate", "datasets")
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/sentence-transformers.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra [sentence-transformers]"
)
def test_the_examples_train_and_save(model_folder: Path, tmp_path: Path) -> None:
    model_folder.rename(tmp_path / "my-splade")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    for code in EXAMPLES:
        finished = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr

    assert len(EXAMPLES) == 2
    assert json.loads((tmp_path / "memory.json").read_text())["optimizer_steps"] == 1
    assert (tmp_path / "trained" / "modules.json").is_file()
    assert (tmp_path / "saved" / "modules.json").is_file()
