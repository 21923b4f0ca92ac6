"""What is set before torch is imported, and what of the user's stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

from splade_bench.bench.protocol import CellRequest
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import OWN_TRAINER, TRAINERS, Cell
from splade_bench.runtime import available_cores, prepare_runtime, runtime_environment


def test_an_empty_environment_gets_every_setting() -> None:
    assert set(runtime_environment({})) == {"GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_users_waiting_policy_stays(name: str) -> None:
    assert "GOMP_SPINCOUNT" not in runtime_environment({name: "active"})


def test_the_users_cache_stays() -> None:
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in runtime_environment({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"})


def test_nothing_changes_once_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)

    assert not prepare_runtime()
    assert "GOMP_SPINCOUNT" in runtime_environment()


@pytest.mark.parametrize("threads", ["{}", "{},1"])
def test_more_threads_than_cores_are_refused(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    too_many = threads.format(available_cores() + 1)
    monkeypatch.setenv("OMP_NUM_THREADS", too_many)

    with pytest.raises(ConfigError, match=f"^OMP_NUM_THREADS {too_many}: this process has {available_cores()} core"):
        prepare_runtime()


@pytest.mark.parametrize("threads", ["", "1", "1,9999", "many", "-1"])
def test_other_values_are_left_to_openmp(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setitem(sys.modules, "torch", None)

    prepare_runtime()


@pytest.mark.parametrize("verb", ["train", "evaluate", "encode", "search", "plan", "fit"])
def test_a_verb_that_computes_is_prepared_before_torch_is_imported(verb: str) -> None:
    script = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print('spins', os.environ.get('GOMP_SPINCOUNT'), flush=True); os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from splade_bench.cli import main\n"
        f"main([{verb!r}, '--help'])"
    )

    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert finished.stdout == "spins 2000\n"


def test_a_verb_with_too_many_threads_ends_in_one_line() -> None:
    script = "import sys; from splade_bench.cli import main; sys.exit(main(['train', '--max-steps', '1']))"
    environment = {"OMP_NUM_THREADS": "4096"}

    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    assert finished.returncode == 2
    assert finished.stderr.startswith("splade-bench train: OMP_NUM_THREADS 4096: this process has ")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_peer_is_measured_in_the_environment_of_its_users(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    cell = Cell(
        workload="mini-256",
        device="cpu",
        batch_size=1,
        gradient_accumulation_steps=1,
        memory_mode="standard",
        trainer=trainer,
    )

    environment = CellRequest(cell=cell, measure="time").environment

    assert ("GOMP_SPINCOUNT" in environment) == (trainer == OWN_TRAINER)
    assert environment["HF_HUB_OFFLINE"] == "1"
