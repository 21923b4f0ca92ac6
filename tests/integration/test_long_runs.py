"""The recipes of docs/long-runs.md, run as they are written, with stand-ins for Slurm's commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from splade_bench.data.records import Triple

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="shell scripts and signals")]

GUIDE = Path(__file__).parents[2] / "docs" / "long-runs.md"
RECIPES: Mapping[str, str] = dict(
    re.findall(r"<!-- recipe: (\S+) -->\n\n```bash\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
)
STEPS = 150
STOP_AFTER_STEPS = 15
TIMEOUT_S = 120
# What the recipes leave to the reader: the model and its sizes.
SIZES = f"--model-name toy --device cpu --batch-size 4 --max-length 16 --epochs 1 --max-steps {STEPS}"
STAND_INS = {
    "splade-bench": f'exec {sys.executable} -m splade_bench "$@" {SIZES}',
    # Slurm's notice comes once: after some optimizer steps of the first start.
    "srun": f"""
        "$@" &
        training=$!
        if [ ! -e notice ]; then
            until [ "$(grep -c '"event": "step"' my-splade-1/log.jsonl 2>/dev/null)" -gt {STOP_AFTER_STEPS} ]; do
                sleep 0.1
            done
            touch notice
            kill -USR1 "$training"
        fi
        wait "$training"
    """,
    "scontrol": 'echo "$@" > requeued',
}


@pytest.fixture
def folder(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    """A working folder with the recipes, their data and the stand-ins."""
    lines = "\n".join(
        json.dumps({"query": one.query, "positive_document": one.positive, "negative_documents": list(one.negatives)})
        for one in triples
    )
    for name in ("train.jsonl", "val.jsonl"):
        (tmp_path / name).write_text(lines)
    for name, script in RECIPES.items():
        (tmp_path / name).write_text(script)
    (tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/bin/bash\n{script}\n")
        command.chmod(0o755)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    return os.environ | slurm | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def start(folder: Path, recipe: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", recipe], cwd=folder, env=environment(folder))


def run(folder: Path, recipe: str) -> int:
    with start(folder, recipe) as process:
        return process.wait(TIMEOUT_S)


def steps_logged(output: Path) -> int:
    log = output / "log.jsonl"
    return log.read_text().count('"event": "step"') if log.exists() else 0


def wait_until(condition: Any) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "nothing happened"
        time.sleep(0.05)


def record(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "run.json").read_text())
    return read


def assert_same_as_never_stopped(folder: Path, output: Path, *more: str) -> None:
    """The weights of the recipe's run are those of a run that nothing stopped."""
    command = [str(folder / "bin" / "splade-bench"), "train", "--train-file", "train.jsonl", "--output-dir", "whole"]
    subprocess.run([*command, *more], cwd=folder, env=environment(folder), check=True, timeout=TIMEOUT_S)
    mine, others = (load_file(path / "final_model" / "model.safetensors") for path in (output, folder / "whole"))
    for name, weight in mine.items():
        assert torch.equal(weight, others[name]), name
    assert record(output)["losses"] == record(folder / "whole")["losses"]


def test_the_guide_has_the_recipes() -> None:
    assert RECIPES.keys() == {"laptop.sh", "spot.sh", "array.sh"}


def test_a_night_on_a_laptop(folder: Path) -> None:
    output = folder / "my-splade"

    def is_running() -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # in some containers nobody waits for it
        except psutil.NoSuchProcess:
            return False

    assert run(folder, "laptop.sh") == 0
    pid = int((folder / "my-splade.pid").read_text())
    wait_until(lambda: steps_logged(output) > STOP_AFTER_STEPS)
    os.kill(pid, signal.SIGHUP)  # the terminal is closed: nothing happens
    before = steps_logged(output)
    wait_until(lambda: steps_logged(output) > before)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running())
    assert record(output)["status"] == "interrupted"

    assert run(folder, "laptop.sh") == 0
    pid = int((folder / "my-splade.pid").read_text())
    wait_until(lambda: not is_running())

    assert record(output)["status"] == "ok", (folder / "my-splade.log").read_text()
    assert STOP_AFTER_STEPS < record(output)["resumed_from_step"] < STEPS
    assert_same_as_never_stopped(folder, output, "--val-file", "val.jsonl", "--eval-steps", "200")


def test_a_spot_instance(folder: Path) -> None:
    output = folder / "my-splade"
    with start(folder, "spot.sh") as process:
        wait_until(lambda: steps_logged(output) > STOP_AFTER_STEPS)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 143

    assert run(folder, "spot.sh") == 0

    assert STOP_AFTER_STEPS < record(output)["resumed_from_step"] < STEPS
    assert_same_as_never_stopped(folder, output)
    assert run(folder, "spot.sh") == 0, "a machine that starts once more"


def test_a_slurm_array(folder: Path) -> None:
    output = folder / "my-splade-1"

    assert run(folder, "array.sh") == 138
    assert (folder / "requeued").read_text() == "requeue 7\n"
    assert run(folder, "array.sh") == 0

    assert STOP_AFTER_STEPS < record(output)["resumed_from_step"] < STEPS
    assert_same_as_never_stopped(folder, output, "--seed", "1")
