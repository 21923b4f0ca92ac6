"""Accuracy, repeatability and cost of the probes; the page of the results is ``reports/INSTRUMENTS.md``."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from splade_bench.bench.cells import CellRunner
from splade_bench.bench.known_blocks import touch_block
from splade_bench.bench.session import MeasuringSession
from splade_bench.grid.cell import Cell
from splade_bench.results.figures import PROBES
from splade_bench.results.records import CellResult

pytestmark = pytest.mark.part(minutes=2)
MIB = 2**20
PROCESSES = 10
LIMITED_RUNS = 20
SAMPLED_RUNS = 3
HOLD_S = 0.1
LAUNCHER = "splade_bench.bench.launcher"
# A cell that needs some 2 GiB, and a limit that is too small for it.
LARGE = Cell(
    workload="repeatability",
    device="cpu",
    batch_size=8,
    gradient_accumulation_steps=1,
    memory_mode="standard",
    attention_dropout=0.1,
    max_steps=2,
)
TOO_SMALL_BYTES = 1024 * MIB


@pytest.mark.takes_long
@pytest.mark.parametrize("memory_mode", ["standard", "memory-efficient"])
def test_the_memory_sampler_takes_at_most_one_percent(memory_mode: str, tmp_path: Path) -> None:
    """Of a core, while a cell trains. Some machines miss it: ``reports/NEGATIVE.md``."""
    runner = CellRunner(cache=tmp_path, timeout_s=600, memory_passes=(), memory_timeline=True)
    shares = []
    for _ in range(SAMPLED_RUNS):
        with runner.start(replace(LARGE, memory_mode=memory_mode)) as run:
            run.wait_until_ready()
            run.train()
            result = run.finish()
        assert result.sampler_cpu_time_s and result.wall_time_s, result.error
        shares.append(result.sampler_cpu_time_s / result.wall_time_s)

    print("share of a core: " + ", ".join(f"{share:.2%}" for share in shares))
    assert statistics.median(shares) <= 0.01


@pytest.mark.takes_long
@pytest.mark.parametrize("memory_limit_bytes", [None, 2**40], ids=["unlimited", "watched"])
def test_parent_and_launcher_take_at_most_one_percent(memory_limit_bytes: int | None, tmp_path: Path) -> None:
    """Of a core while the cell trains; of the machine from the cell's start, that of the launcher included.

    The launcher's imports take a tenth of a second before anything is measured, 1 % of a core in a cell of ten seconds.
    Under a limit it also reads the worker's memory, twenty-five times a second.
    """
    runner = CellRunner(cache=tmp_path, timeout_s=600, memory_passes=())
    readings = [Spent.now()]
    with runner.start(replace(LARGE, memory_limit_bytes=memory_limit_bytes)) as run:
        readings.append(Spent.now())
        (launcher,) = (child for child in psutil.Process().children() if LAUNCHER in child.cmdline())
        started = Spent.now(launcher)  # the search for it is not part of the parent's usual work
        run.wait_until_ready()
        readings.append(Spent.now(launcher))
        run.train()
        readings.append(Spent.now(launcher))

    before, entered, ready, done = readings
    training = done.since(ready)
    start, rest = entered.since(before), done.since(started)
    cell = Spent(wall_s=start.wall_s + rest.wall_s, cpu_s=start.cpu_s + rest.cpu_s + started.launcher_s)
    print(f"training: {training.cpu_s:.3f} s of {training.wall_s:.1f}; cell: {cell.cpu_s:.3f} s of {cell.wall_s:.1f}")
    assert training.cpu_s <= 0.01 * training.wall_s
    assert cell.cpu_s <= 0.01 * cell.wall_s * (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """A moment and the processor time of this process and a launcher until then; or the difference of two."""

    wall_s: float
    cpu_s: float
    launcher_s: float = 0.0
    """Of ``cpu_s``, the launcher's."""

    @classmethod
    def now(cls, launcher: psutil.Process | None = None) -> Spent:
        launcher_s = sum(launcher.cpu_times()[:2]) if launcher else 0.0  # user and system
        return cls(wall_s=time.perf_counter(), cpu_s=time.process_time() + launcher_s, launcher_s=launcher_s)

    def since(self, earlier: Spent) -> Spent:
        return Spent(wall_s=self.wall_s - earlier.wall_s, cpu_s=self.cpu_s - earlier.cpu_s)


@pytest.mark.takes_long
@pytest.mark.parametrize("size_mib", [64, 256, 1024])
@pytest.mark.parametrize("kind", ["block", "tensor"])
def test_a_known_amount_is_read_back(kind: str, size_mib: int, measuring: MeasuringSession) -> None:
    if kind == "block":
        result = measuring.calibrate(touch_block, size_mib * MIB, HOLD_S)
        expected = {"RSS", "sampled", "pinned", "memray"}
    else:
        from splade_bench.worker.known_tensors import fill_tensor

        result = measuring.calibrate(fill_tensor, size_mib * MIB)
        expected = {"RSS", "pinned", "memray", "live tensors"}

    assert result.status == "ok", result.error
    assert result.value == size_mib * MIB
    assert expected <= {probe.name for _, probe in PROBES}
    for figure, probe in PROBES:
        if probe.name in expected:
            read_bytes = figure.added(result)
            assert read_bytes is not None, probe.name
            assert abs(read_bytes / (size_mib * MIB) - 1) <= probe.calibration_limit, probe.name


@pytest.mark.takes_long
@pytest.mark.parametrize("memory_mode", ["standard", "memory-efficient"])
def test_a_figure_is_the_same_in_every_process(memory_mode: str, record_cell: Callable[[Cell], CellResult]) -> None:
    cell = replace(LARGE, memory_mode=memory_mode, batch_size=4)
    results = [record_cell(replace(cell, round=number)) for number in range(1, PROCESSES + 1)]

    assert [result.status for result in results] == ["ok"] * PROCESSES
    assert sum(probe.spread_limit is not None for _, probe in PROBES) == 3
    for figure, probe in PROBES:
        if probe.spread_limit is not None:
            values = [value for result in results if (value := figure.added(result)) is not None]
            assert len(values) == PROCESSES, probe.name
            assert probe.spread_holds(values), (probe.name, values)


@pytest.fixture(scope="module")
def limited(record_cell: Callable[[Cell], CellResult]) -> tuple[list[CellResult], list[CellResult]]:
    """The large cell under a limit that is too small and under a limit that is just large enough, in turn."""
    large = replace(LARGE, workload="memory-limit")
    alone = record_cell(large)
    assert alone.peak_rss_bytes is not None, alone.error
    enough_bytes = round(1.05 * alone.peak_rss_bytes)
    failing, fitting = [], []
    for number in range(1, LIMITED_RUNS + 1):
        failing.append(record_cell(replace(large, memory_limit_bytes=TOO_SMALL_BYTES, round=number)))
        fitting.append(record_cell(replace(large, memory_limit_bytes=enough_bytes, round=number)))
    return failing, fitting


@pytest.mark.takes_long
@pytest.mark.part("limits", minutes=5)
def test_a_cell_over_its_limit_is_oom_every_time(limited: tuple[list[CellResult], list[CellResult]]) -> None:
    failing, _ = limited

    assert [result.status for result in failing] == ["oom"] * LIMITED_RUNS
    assert {result.phase for result in failing} <= {"forward", "loss", "backward", "optimizer_step"}
    assert all(result.failed_allocation_bytes for result in failing)


@pytest.mark.takes_long
@pytest.mark.part("limits", minutes=5)
def test_a_cell_within_its_limit_is_never_oom(limited: tuple[list[CellResult], list[CellResult]]) -> None:
    _, fitting = limited

    assert [result.status for result in fitting] == ["ok"] * LIMITED_RUNS
