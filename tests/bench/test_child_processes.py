"""A measured call that starts child processes: their memory is in its peak, or its record says that it is not."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from splade_bench.bench.calls import CallRunner, call_request
from splade_bench.bench.child_processes import ChildProcesses
from splade_bench.bench.protocol import MemoryPass
from splade_bench.measure.rss import NOT_MEASURED
from splade_bench.results.records import CallResult

MIB = 2**20


def take(size_mib: int) -> int:
    block = b"x" * (size_mib * MIB)
    time.sleep(0.6)
    return len(block)


def in_a_pool(method: str, size_mib: int) -> int:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        return sum(pool.map(take, [size_mib] * 2))


def in_a_program(size_mib: int) -> None:
    code = f"import time; block = b'x' * ({size_mib} << 20); time.sleep(0.6)"
    subprocess.run([sys.executable, "-c", code], check=True)


def beside_short_programs(size_mib: int) -> None:
    """Holds memory while programs that end at once come and go."""
    block = b"x" * (size_mib * MIB)
    for _ in range(20):
        subprocess.run(["true"], check=True)
    del block


def fails_beside_a_program(size_mib: int) -> None:
    in_a_program(size_mib)
    raise ValueError("after it")


def measure(function: Callable[..., object], *arguments: Any, passes: tuple[MemoryPass, ...] = ()) -> CallResult:
    return CallRunner(timeout_s=60, memory_passes=passes).measure("a call", call_request(function, *arguments))


def growth_mib(result: CallResult) -> float:
    assert result.peak_rss_bytes is not None
    assert result.baseline_rss_bytes is not None
    return (result.peak_rss_bytes - result.baseline_rss_bytes) / MIB


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_case_13_a_pool_counts(method: str) -> None:
    result = measure(in_a_pool, method, 100)

    assert result.value == 200 * MIB
    assert 150 < growth_mib(result) < 300  # both, not one
    assert result.child_processes is not None
    assert 2 <= result.child_processes <= 4  # spawn and forkserver have helpers
    # A busy machine reads so seldom that some may be missed.
    counted = rf"VmHWM; with (\d of )?{result.child_processes} child processes, sampled every 10 ms"
    assert re.fullmatch(counted, result.peak_rss_source or "")


@pytest.mark.slow
def test_case_13_a_program_counts_and_the_other_figures_leave_it_out() -> None:
    result = measure(in_a_program, 100, passes=("heap",))

    assert 80 < growth_mib(result) < 150
    assert result.child_processes == 1
    assert result.memray_peak_bytes is not None
    assert result.memray_peak_bytes < 10 * MIB


@pytest.mark.slow
def test_a_short_program_is_not_the_memory_of_its_parent_again() -> None:
    result = measure(beside_short_programs, 200)

    assert 190 < growth_mib(result) < 300
    assert result.child_processes


@pytest.mark.slow
def test_a_call_that_fails_has_its_childrens_memory_too() -> None:
    result = measure(fails_beside_a_program, 100)

    assert (result.status, result.error) == ("error", "ValueError: after it")
    assert 80 < growth_mib(result) < 150
    assert result.child_processes == 1


def test_a_call_without_children_has_the_kernels_mark_alone() -> None:
    result = measure(take, 1)

    assert (result.child_processes, result.peak_rss_source) == (0, "VmHWM" if sys.platform == "linux" else None)


@pytest.fixture
def ended() -> ChildProcesses:
    """As after a call whose children nobody saw."""
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)
    with ChildProcesses(int(finished.stdout)) as children:
        return children


def test_children_that_ended_before_they_were_seen_are_on_the_record(ended: ChildProcesses) -> None:
    fields = ended.counted({"peak_rss_bytes": 5, "peak_rss_source": "VmHWM", "child_processes": 1})

    assert fields == {
        "peak_rss_bytes": 5,
        "child_processes": 1,
        "peak_rss_source": "VmHWM; without 1 child process, whose memory was not sampled",
    }


def test_the_source_says_how_many_of_the_children_were_sampled(
    ended: ChildProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source(children: set[int]) -> str:
        for name, value in {"children": children, "counted": {1, 2}, "peak_with_children_bytes": 9}.items():
            monkeypatch.setattr(ended._tree, name, value)
        return str(ended.counted({"peak_rss_bytes": 5, "peak_rss_source": "VmHWM"})["peak_rss_source"])

    assert source({1, 2}) == "VmHWM; with 2 child processes, sampled every 10 ms"
    assert source(set(range(1, 517))) == "VmHWM; with 2 of 516 child processes, sampled every 10 ms"


def test_without_the_kernels_mark_the_peak_is_sampled() -> None:
    with ChildProcesses(os.getpid()) as children:
        pass

    fields = children.counted({"peak_rss_bytes": None, "peak_rss_source": f"{NOT_MEASURED}there is no VmHWM"})

    assert fields["peak_rss_bytes"] > MIB
    assert fields["peak_rss_source"] == "sampled every 10 ms (there is no VmHWM)"
