"""Processor time, page faults and swap of a part of a run."""

from __future__ import annotations

import sys
import time

import pytest

from splade_bench.measure.usage import usage_between, usage_now


def test_processor_time_is_that_of_work_and_not_of_waiting() -> None:
    before = usage_now()
    end_s = time.process_time() + 0.2
    while time.process_time() < end_s:
        sum(range(1000))
    time.sleep(0.3)

    assert usage_between(before, usage_now())["cpu_time_s"] == pytest.approx(0.2, abs=0.1)


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
