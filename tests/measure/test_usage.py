"""Processor time, page faults and swap of a part of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from splade_bench.measure.usage import usage_between, usage_now


def test_processor_time_is_that_of_work_and_not_of_waiting() -> None:
    before = usage_now()
    end_s = time.process_time() + 0.2
    while time.process_time() < end_s:
        sum(range(1000))
    time.sleep(0.3)

    assert usage_between(before, usage_now())["cpu_time_s"] == pytest.approx(0.2, abs=0.1)


def test_processor_time_of_another_process_is_that_of_others() -> None:
    work = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True)\ninput()"
    before = usage_now()
    with subprocess.Popen([sys.executable, "-S", "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        others_s = usage_between(before, usage_now())["others_cpu_time_s"]
        other.kill()
    if others_s is None:
        pytest.skip("this system does not report the processor time of all processes")

    assert others_s >= 0.9


def test_processor_time_of_this_process_and_its_ended_children_is_not_that_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=50.0, system=10.0, steal=3.0, idle=99.0))
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(children_user=7.0, children_system=1.0))
    monkeypatch.setattr(time, "process_time", lambda: 5.0)

    assert usage_now()["others_cpu_time_s"] == 50.0
    assert usage_between({"others_cpu_time_s": 50.0}, {"others_cpu_time_s": 49.99}) == {"others_cpu_time_s": 0.0}


def test_a_system_that_reports_zeros_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=0.0, system=0.0, idle=0.0))

    assert usage_now()["others_cpu_time_s"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is swapped out")
def test_a_process_that_fits_swaps_nothing() -> None:
    used = usage_between(usage_now(), usage_now())

    assert used["swapped_bytes"] == 0
    assert used["major_faults"] is not None
    assert used["major_faults"] >= 0


def test_a_total_that_the_system_does_not_report_has_no_difference() -> None:
    unknown = {"cpu_time_s": 1.0, "major_faults": None, "swapped_bytes": None}
    known = {"cpu_time_s": 3.0, "major_faults": 5, "swapped_bytes": 7}

    expected = {"cpu_time_s": 2.0, "major_faults": None, "swapped_bytes": None}
    assert usage_between(unknown, known) == expected
    assert usage_between(known, unknown) == expected | {"cpu_time_s": -2.0}
