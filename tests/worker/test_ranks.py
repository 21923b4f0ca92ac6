"""Cells that several processes train: real processes over gloo, and what is left of them when one fails."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.cells import CellRun, CellRunner
from splade_bench.bench.isolate import WorkerError
from splade_bench.bench.protocol import MEMORY_PASSES, CellRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult
from splade_bench.worker import ranks
from splade_bench.worker.ranks import of_all_ranks

CELL = Cell(
    workload="head",
    device="cpu",
    batch_size=2,
    gradient_accumulation_steps=1,
    memory_mode="memory-efficient",
    max_steps=3,
    processes=2,
)
_MARK = "SPLADE_TEST_MARK"
Fails = Callable[..., CellResult]


def train(run: CellRun) -> None:
    run.wait_until_ready()
    run.train()


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Processes that this test has started, at any depth, and that still run."""
    mark = uuid4().hex
    monkeypatch.setenv(_MARK, mark)

    def running() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.Error:
                pass  # it has ended, or is another user's
        return found

    return running


@pytest.fixture
def fails(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_over: Callable[[], list[int]]) -> Fails:
    """Train the cell with a line planted at the beginning of the training of rank 1; its result."""

    def run(planted: str, *, timeout_s: float = 120) -> CellResult:
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys, time\n"
            "if 'splade_bench.worker.cell_worker' in sys.orig_argv:\n"
            "    from splade_bench.training import trainer\n"
            "    train = trainer.Trainer.train\n"
            "    def planted(self):\n"
            "        if self.processes.rank == 1 and self.encoder.vocab_size > 1000:  # not in the warm-up\n"
            f"            {planted}\n"
            "        return train(self)\n"
            "    trainer.Trainer.train = planted\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        session = MeasuringSession(
            results_path=None,
            cells=CellRunner(cache=cache, timeout_s=timeout_s),
            calls=CallRunner(timeout_s=timeout_s),
        )
        result = session.measure(CELL, train)
        deadline_s = time.monotonic() + 10
        while left_over() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert left_over() == []
        return result

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "status", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "rank 1: ended by signal SIGKILL"),
        ("raise MemoryError('planted')", "oom", "rank 1: planted"),
    ],
)
def test_a_rank_that_fails_is_named_and_no_process_is_left(fails: Fails, planted: str, status: str, error: str) -> None:
    result = fails(planted)

    assert (result.status, result.error) == (status, error)
    assert result.processes == 2
    assert result.peak_rss_bytes and result.all_ranks_peak_bytes is None


@pytest.mark.slow
def test_a_rank_that_hangs_ends_with_the_cells_time(fails: Fails) -> None:
    result = fails("time.sleep(1000)", timeout_s=20)

    assert (result.status, result.error) == ("timeout", "took longer than 20 s")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the launcher notices within a second")
def test_no_rank_outlives_a_launcher_that_is_killed(cache: Path, left_over: Callable[[], list[int]]) -> None:
    with CellRunner(cache=cache, timeout_s=120).start(CELL) as run:
        run.wait_until_ready()
        assert len(left_over()) == 3  # the launcher and two ranks
        run.process._launcher.kill()
        with pytest.raises(WorkerError):
            run.train()
        deadline_s = time.monotonic() + 10
        while left_over() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert left_over() == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trainer": "SpladeLoss"}, "processes 2: the trainer SpladeLoss runs in one process"),
        ({"memory_budget_bytes": 2**30}, "processes 2: fit chooses settings for one process"),
        ({"device": "mps"}, "--processes 2: MPS trains in one process"),
    ],
)
def test_what_only_one_process_can_do_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with (
        pytest.raises(ConfigError, match=complaint),
        CellRunner(cache=tmp_path, timeout_s=1).start(replace(CELL, **changes)),
    ):
        pass


def test_only_the_plan_of_the_memory_passes_is_one_of_several_processes(tmp_path: Path) -> None:
    runner = CellRunner(cache=tmp_path, timeout_s=60, memory_passes=MEMORY_PASSES)

    with runner.start(CELL) as run:
        assert run.memory_passes == ["plan"]
    with runner.start(replace(CELL, processes=1)) as run:
        assert run.memory_passes == MEMORY_PASSES


@pytest.mark.parametrize(
    ("script", "oom_kills", "status", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", [0, 1], "killed", "rank 1: ended by signal SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGKILL)", [0, 0], "killed", "rank 1: ended by signal SIGKILL"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            [0, 1],
            "oom",
            "rank 1: the kernel's out-of-memory killer ended the process",
        ),
        ("sys.exit(3)", [0, 1], "error", "rank 1: ended with exit code 3 and no result"),
        (
            """print('{"name": "failed", "values": {"status": "nan", "error": "the loss is not finite"}}')""",
            [0, 0],
            "nan",
            "rank 1: the loss is not finite",
        ),
    ],
)
def test_a_rank_that_ends_before_it_is_ready_says_why(
    monkeypatch: pytest.MonkeyPatch, script: str, oom_kills: list[int], status: str, error: str
) -> None:
    command = (sys.executable, "-c", f"import os, signal, sys; sys.stdin.readline(); {script}")
    monkeypatch.setattr(ranks, "module_command", lambda module: command)
    counts = iter(oom_kills)
    monkeypatch.setattr(ranks, "visible_oom_kills", lambda: next(counts))

    with ranks.OtherRanks(CellRequest(cell=CELL, measure="time")) as others, pytest.raises(WorkerError) as caught:
        others.wait_for("ready")

    assert (caught.value.values["status"], caught.value.values["error"]) == (status, error)


def fields_of_a_rank(**changes: Any) -> dict[str, Any]:
    fields = {"peak_rss_bytes": 10, "device_peak_allocated_bytes": None, "cpu_time_s": 2.0, "others_cpu_time_s": 5.0}
    return fields | {"major_faults": 1, "swapped_bytes": 0, "wall_time_s": 3.0} | changes


def test_the_peaks_of_all_ranks_and_their_time_are_in_the_fields_of_rank_0() -> None:
    found = of_all_ranks([fields_of_a_rank(), fields_of_a_rank(peak_rss_bytes=30, cpu_time_s=1.5, wall_time_s=9.0)])

    assert (found["peaks_by_rank"], found["all_ranks_peak_bytes"], found["peak_rss_bytes"]) == ([10, 30], 40, 10)
    assert (found["cpu_time_s"], found["others_cpu_time_s"], found["major_faults"]) == (3.5, 3.5, 2)
    assert found["wall_time_s"] == 3.0


def test_on_an_accelerator_a_rank_has_the_peak_of_its_device() -> None:
    ranks = [fields_of_a_rank(device_peak_allocated_bytes=size) for size in (3, 4, 5)]

    assert of_all_ranks(ranks)["peaks_by_rank"] == [3, 4, 5]
    assert of_all_ranks(ranks)["all_ranks_peak_bytes"] == 12


def test_what_one_rank_could_not_measure_has_no_sum() -> None:
    unknown = fields_of_a_rank(peak_rss_bytes=None, swapped_bytes=None, others_cpu_time_s=None)
    found = of_all_ranks([unknown, fields_of_a_rank()])

    assert found["peaks_by_rank"] == [None, 10]
    assert found["all_ranks_peak_bytes"] is found["swapped_bytes"] is found["others_cpu_time_s"] is None
