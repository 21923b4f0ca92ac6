"""Every call of the disk fails, or is the last one: the last or the new checkpoint is there, and sound."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

import pytest
from faults import ERRORS, KILLED, Fault, build_shim, failing_call, run_with_fault
from written_checkpoints import writer

from splade_bench.files import remove_debris
from splade_bench.training.checkpoints import Checkpoints
from splade_bench.training.tensor_file import TensorReader

# Runs in a process with the shim.
CAMPAIGN = """
import json
from faults import campaign
from test_checkpoint_faults import check_after_fault, save_second, start_with_one

print(json.dumps(campaign(start_with_one, save_second, check_after_fault)))
"""
SAVE = """
import sys
from pathlib import Path
from test_checkpoint_faults import save_second

save_second(Path(sys.argv[1]))
"""


def start_with_one(folder: Path) -> None:
    folder.mkdir()
    Checkpoints(folder).save(10, writer(10.0))


def save_second(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.save(20, writer(20.0))
    checkpoints.rotate(limit=1)


def check_after_fault(folder: Path, fault: Fault, exit_code: int) -> None:
    """All that has the name of a checkpoint is sound, and there is one; what is left over goes, and saving works."""
    checkpoints = Checkpoints(folder)
    names = visible_names(folder)
    assert names
    for checkpoint in checkpoints.all():
        checkpoint.verify()
        with TensorReader(checkpoint.path / "moments.safetensors") as reader:
            assert reader.read("a").unique().tolist() == [checkpoint.step]
    assert names == {checkpoint.path.name for checkpoint in checkpoints.all()}
    if exit_code == 0:
        assert "checkpoint-20" in names
    if exit_code != KILLED and not fault.lasting and fault.call not in ("remove", "open"):
        assert hidden_names(folder) == set()  # those two calls may fail while it is cleaned up
    remove_debris(folder)
    assert hidden_names(folder) == set()
    save_second(folder)
    assert visible_names(folder) == {"checkpoint-20"}


def visible_names(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def hidden_names(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_whatever_call_fails_the_last_or_the_new_checkpoint_is_there(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # without the time of a disk
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        start_with_one(folder)
        failed = False
        with failing_call(number, error) as seen:
            try:
                save_second(folder)
            except OSError:
                failed = True
        if number > len(seen):
            break
        check_after_fault(folder, Fault(call=seen[number - 1], number=number, error=error), int(failed))

    assert {"open", "fsync", "rename", "mkdir"} <= set(seen)
    assert not failed
    assert number > 20


@pytest.mark.slow
def test_whatever_call_fails_or_is_the_last_one_a_checkpoint_is_there(tmp_path: Path) -> None:
    shim = build_shim(tmp_path)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")])

    finished = subprocess.run(
        [sys.executable, "-c", CAMPAIGN],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    tried = json.loads(finished.stdout)
    for call, name in itertools.product(("write", "fsync", "rename", "mkdir", "open"), errno_names()):
        assert tried[f"{call} 0: {name} -> 1"] > 0, (call, name)
    assert tried[f"any 0: kill -> {KILLED}"] > 40


def errno_names() -> list[str]:
    return [errno.errorcode[error] for error in ERRORS]


@pytest.mark.slow
def test_the_shim_reaches_a_command_and_its_calls_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim, folder = build_shim(tmp_path), tmp_path / "run"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")])
    monkeypatch.setenv("PYTHONPATH", path)
    command = [sys.executable, "-c", SAVE, str(folder)]
    start_with_one(folder)
    counted = run_with_fault(command, shim=shim, folder=folder)
    assert counted.exit_code == 0, counted.stderr
    assert all(counted.counts[call] for call in ("write", "fsync", "rename", "mkdir", "open", "remove"))
    shutil.rmtree(folder)
    start_with_one(folder)

    killed = run_with_fault(command, shim=shim, folder=folder, fault=Fault(number=counted.counts["any"] // 2))
    full = run_with_fault(command, shim=shim, folder=folder, fault=Fault(call="write", number=1, error=errno.ENOSPC))

    assert killed.exit_code == KILLED
    assert killed.counts["any"] == counted.counts["any"] // 2
    assert full.exit_code == 1 and "No space left on device" in full.stderr
    check_after_fault(folder, Fault(), KILLED)
