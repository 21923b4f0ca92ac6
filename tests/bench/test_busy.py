"""Busy processes run while a cell does, and end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from splade_bench.bench.busy import busy_processes
from splade_bench.bench.cells import CellRunner
from splade_bench.bench.isolate import WorkerError
from splade_bench.grid.cell import Cell

CELL = Cell(workload="head", device="cpu", batch_size=1, gradient_accumulation_steps=1, memory_mode="standard")


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_they_compute_at_the_same_priority_until_the_block_is_left() -> None:
    before = children()

    with busy_processes(2):
        started = [process for process in children() if process not in before]
        assert len(started) == 2
        assert {process.nice() for process in started} == {psutil.Process().nice()}
        for process in started:
            wait_until(lambda process=process: process.cpu_times().user > 0.1)

    assert children() == before


def test_they_end_with_a_cell_that_fails() -> None:
    before = children()

    def fail() -> None:
        with busy_processes(1):
            raise RuntimeError("the cell failed")

    with pytest.raises(RuntimeError, match="the cell failed"):
        fail()
    assert children() == before


def test_none_are_started_for_a_quiet_cell() -> None:
    before = children()

    with busy_processes(0):
        assert children() == before


def test_they_end_when_their_parent_is_killed() -> None:
    script = (
        "import os, psutil, signal\n"
        "from splade_bench.bench.busy import busy_processes\n"
        "with busy_processes(1):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    pid = int(finished.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_cell_that_runs_out_of_time_beside_them_says_how_long_it_trained(tmp_path: Path) -> None:
    runner = CellRunner(cache=tmp_path, timeout_s=60)
    before = children()

    with runner.start(replace(CELL, busy_processes=1)) as run:
        assert len(children()) == len(before) + 2  # with the launcher
        run.process = LateProcess()  # type: ignore[assignment]
        with pytest.raises(WorkerError):
            run.train()
        result = run.finish()

    assert children() == before
    assert (result.status, result.busy_processes) == ("timeout", 1)
    assert result.wall_time_s is not None and result.wall_time_s >= LateProcess.late_s
    assert result.cell_id.endswith("-busy1")


class LateProcess:
    """A worker that is ended while it trains."""

    late_s = 0.05

    def go(self) -> None:
        time.sleep(self.late_s)
        raise WorkerError(status="timeout", error="took longer than 60 s")

    def wait_for(self, name: str) -> None:
        raise WorkerError(status="timeout", error="took longer than 60 s")
