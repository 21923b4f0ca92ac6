"""Every call of the disk fails, or is the last one, while a model replaces another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import KILLED, build_shim

# Runs in a process with the shim: a model replaces another one.
CAMPAIGN = """
import json
import os
from pathlib import Path
from faults import KILLED, campaign
from splade_bench.cli.output import OutputFolder
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.model.presets import build_preset

encoder = build_preset("toy", train_tokenizer(["a few words"] * 9, vocab_size=512), seed=0)

def prepare(folder):
    (folder / "final_model").mkdir(parents=True)
    (folder / "final_model" / "old").write_text("1")

def save(folder):
    OutputFolder(folder).save_model(encoder)

def contents(folder):
    return {path.name for path in folder.iterdir()}

NEW = set()

def check(folder, fault, exit_code):
    global NEW
    if not NEW:
        prepare(folder / "first")
        save(folder / "first")
        NEW = contents(folder / "first" / "final_model")
    found = [contents(path) for path in folder.iterdir() if path.name != "first"]
    assert {"old"} in found or NEW in found
    if exit_code == 0:
        assert contents(folder / "final_model") == NEW
    if exit_code != KILLED and not fault.lasting:
        assert (folder / "final_model").is_dir()

print(json.dumps(campaign(prepare, save, check)))
"""


@pytest.mark.slow
def test_whatever_call_fails_or_is_the_last_one_the_old_model_or_the_new_one_is_there(tmp_path: Path) -> None:
    support = str(Path(__file__).parents[1] / "support")
    environment = {**os.environ, "LD_PRELOAD": str(build_shim(tmp_path)), "PYTHONPATH": support}

    finished = subprocess.run([sys.executable, "-c", CAMPAIGN], env=environment, capture_output=True, text=True)

    assert finished.returncode == 0, finished.stderr
    tried = json.loads(finished.stdout)
    assert tried["write 0: ENOSPC -> 1"] > 3
    assert tried[f"any 0: kill -> {KILLED}"] > 20
