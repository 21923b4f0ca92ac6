"""Systems that report less: the work goes on, and a figure that is missing is None with its reason, never a number."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from splade_bench.cli.progress import memory_line
from splade_bench.errors import SpladeBenchError
from splade_bench.measure import machine, rss
from splade_bench.measure.growth import PeakGrowth
from splade_bench.measure.rss import NOT_MEASURED, PeakRss, RssReader, known_rss_bytes
from splade_bench.measure.timeline import MemorySampler
from splade_bench.measure.usage import usage_between, usage_now

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="imitates sandboxes of Linux")

# What gVisor writes: no VmHWM, no VmSwap.
GVISOR = "Name:\tpython\nVmSize:\t  9000 kB\nVmRSS:\t  5000 kB\nVmData:\t  4000 kB\nThreads:\t1\n"
# What WSL 1 writes.
WSL = GVISOR + "VmHWM:\t       0 kB\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Make this process see another status file; None: no /proc at all."""

    def imitate(status: str | None) -> None:
        path = tmp_path / "status"
        monkeypatch.setattr(rss, "_STATUS", path)
        monkeypatch.setattr(rss, "_CLEAR_REFS", tmp_path / "nothing" / "clear_refs")
        if status is None:
            monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no-proc"))
            monkeypatch.setattr(RssReader, "read", lambda self: 0)
        else:
            path.write_text(status)

    return imitate


@pytest.mark.parametrize(
    ("status", "reason"),
    [(GVISOR, "has no VmHWM"), (WSL, "has a VmHWM of 0"), (None, "No such file"), ("VmHWM:\n", "index out of range")],
)
def test_a_peak_that_cannot_be_read_is_none_with_the_reason(
    system: Callable[[str | None], None], status: str | None, reason: str
) -> None:
    system(status)
    peak_rss = PeakRss()
    peak_rss.start()

    peak = peak_rss.read()

    assert peak.peak_bytes is None
    assert peak.source.startswith(NOT_MEASURED)
    assert reason in peak.source
    assert (peak.start_bytes is None) == (status is None)
    assert memory_line(peak_rss).endswith(f"({peak.source})")


def test_without_the_kernels_mark_growth_is_sampled(system: Callable[[str | None], None]) -> None:
    system(GVISOR)

    with PeakGrowth() as growth:
        block = bytearray(64 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(0.1)

    assert growth.peak_bytes == pytest.approx(len(block), rel=0.1)


def test_growth_that_cannot_be_measured_raises_when_it_is_asked_for(system: Callable[[str | None], None]) -> None:
    """A limit that cannot be judged must not be satisfied."""
    system(None)

    with PeakGrowth() as growth:
        pass

    with pytest.raises(SpladeBenchError, match="cannot be measured here"):
        assert growth.peak_bytes > 0


def test_without_proc_nothing_raises_and_nothing_is_made_up(system: Callable[[str | None], None]) -> None:
    system(None)
    before = usage_now()

    assert known_rss_bytes() is None
    assert machine.machine_info()["memory_bytes"] is None
    assert machine.taken_on()["machine"]["system"] == "Linux"
    assert usage_between(before, usage_now())["swapped_bytes"] is None


def test_a_sampler_that_fails_has_no_peak_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    readings = iter([5, 7])

    with MemorySampler(read=lambda: next(readings)) as sampler:
        time.sleep(0.2)

    assert [sample.rss_bytes for sample in sampler.timeline.samples] == [5, 7]
    assert sampler.error == "StopIteration"
    assert sampler.peak_bytes is None
    assert "memory is not sampled any more" in caplog.text


def test_a_sampler_that_gets_no_thread_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)

    with MemorySampler() as sampler:
        pass

    assert sampler.error == "can't start new thread"
    assert sampler.peak_bytes is None


def test_a_sampler_does_not_take_unknown_memory_for_zero(system: Callable[[str | None], None]) -> None:
    system(None)

    with MemorySampler() as sampler:
        time.sleep(0.05)

    assert sampler.timeline.samples == []
    assert sampler.peak_bytes is None


def test_a_commit_is_left_out_where_git_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **keywords: object) -> None:
        raise subprocess.TimeoutExpired("git", 1)

    monkeypatch.setattr(subprocess, "run", broken)

    assert machine.commit() is None
