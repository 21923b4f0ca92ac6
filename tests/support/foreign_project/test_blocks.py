from __future__ import annotations

import sys
from pathlib import Path

import pytest
from work.blocks import fail, touch

MIB = 2**20


def touch_here(path: str, size_mib: int) -> dict[str, int]:
    """A function of the test file itself, which no other process can import by name."""
    return {Path(path).name: touch(size_mib)}


def test_the_plugin_imports_nothing_large():  # comes first: measuring imports psutil
    assert "splade_bench.pytest_plugin" in sys.modules
    assert not {"torch", "transformers", "psutil"} & set(sys.modules)


@pytest.mark.limit_peak_memory("512MiB")
def test_a_function_is_measured_in_a_process_of_its_own_within_the_limit(measure_memory):
    measured = measure_memory(touch, 64)

    assert measured.value == 64
    assert measured.peak_rss_bytes - measured.baseline_rss_bytes == pytest.approx(64 * MIB, rel=0.05)
    assert measured.memray_peak_bytes == pytest.approx(64 * MIB, rel=0.05)
    assert "work/blocks.py" in measured.memray_top_sites[0]["site"]


def test_a_function_of_the_test_file_is_measured_too(measure_memory, tmp_path):
    assert measure_memory(touch_here, str(tmp_path / "index"), size_mib=16).value == {"index": 16}


def test_a_call_that_fails_fails_the_test(measure_memory):
    with pytest.raises(pytest.fail.Exception, match="ValueError: no such block"):
        measure_memory(fail)


def test_a_function_without_a_name_is_refused(measure_memory):
    with pytest.raises(pytest.fail.Exception, match="move it to the top of a module"):
        measure_memory(lambda: None)


def test_an_argument_that_json_cannot_hold_is_refused(measure_memory):
    with pytest.raises(pytest.fail.Exception, match="with JSON arguments"):
        measure_memory(touch, (1, 2))


@pytest.mark.limit_peak_memory("32MiB")
def test_over_the_limit_in_its_own_process(measure_memory):
    measure_memory(touch, 64)


@pytest.mark.limit_peak_memory("32MiB")
def test_over_the_limit_in_this_process():
    touch(64)


@pytest.mark.limit_peak_memory("96MiB")
def test_within_the_limit_in_this_process():
    touch(64)


def test_the_device_is_this_projects_own(pytestconfig):
    assert pytestconfig.getoption("--device") == "here"
