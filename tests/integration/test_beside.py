"""Our plugin beside the plugins that most projects have, with warnings as errors."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = """
import asyncio
import random
import unittest

import pytest


def work(size_mib):
    return len(bytes(size_mib * 2**20))


async def wait(size_mib):
    await asyncio.sleep(0)
    return work(size_mib)


@pytest.mark.limit_peak_memory("300MiB")
def test_a_call(measure_memory):
    measured = measure_memory(work, 8)
    assert measured.value == 8 * 2**20
    assert measured.memray_peak_bytes >= 8 * 2**20
    assert not measured.pass_errors


@pytest.mark.limit_peak_memory("300MiB")
def test_this_process():
    assert work(8)


def test_a_coroutine(measure_memory):
    assert measure_memory(wait, 8).value == 8 * 2**20


@pytest.mark.parametrize("number", range(4))
def test_many(number):
    assert random.random() < 1


def test_timed(benchmark):
    benchmark.pedantic(work, args=(1,), rounds=1)


class TestUnit(unittest.TestCase):
    def test_unit(self):
        self.assertTrue(work(1))
"""
ASYNC_TEST = """

@pytest.mark.asyncio
async def test_inside_an_event_loop(measure_memory):
    assert measure_memory(wait, 8).value == await wait(8)
"""
# Left out, it is a warning of pytest-asyncio.
LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed here")


def run_pytest(folder: Path, *arguments: str, tests: str = TESTS, **environment: str) -> str:
    """The output of a run that passes, without a plugin that is not named."""
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path, "PYTEST_ADDOPTS": ""} | environment
    ours = ("-p", "splade_bench.pytest_plugin", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-W", "error", *ours, *arguments]
    finished = subprocess.run(
        command, cwd=folder, env=os.environ | alone, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_warnings_are_errors_in_every_process(tmp_path: Path) -> None:
    assert "9 passed" in run_pytest(tmp_path, PYTHONWARNINGS="error")


@pytest.mark.slow
def test_case_R1_xdist_and_warnings_as_errors(tmp_path: Path) -> None:
    needs("xdist")

    assert "9 passed" in run_pytest(tmp_path, "-p", "xdist", "-n", "2")


@pytest.mark.slow
def test_randomly(tmp_path: Path) -> None:
    needs("pytest_randomly")

    assert "9 passed" in run_pytest(tmp_path, "-p", "randomly", "--randomly-seed=7")


@pytest.mark.slow
def test_asyncio(tmp_path: Path) -> None:
    needs("pytest_asyncio")

    assert "10 passed" in run_pytest(tmp_path, "-p", "asyncio", *LOOPS, tests=TESTS + ASYNC_TEST)


@pytest.mark.slow
def test_cov(tmp_path: Path) -> None:
    needs("pytest_cov", "coverage")

    text = run_pytest(tmp_path, "-p", "pytest_cov", "--cov=test_it", "--cov-report=term")

    assert "9 passed" in text
    assert "test_it.py" in text


@pytest.mark.slow
def test_all_at_once(tmp_path: Path) -> None:
    needs("xdist", "pytest_randomly", "pytest_asyncio", "pytest_cov")
    names = ("xdist", "randomly", "asyncio", "pytest_cov")
    plugins = [argument for name in names for argument in ("-p", name)]

    text = run_pytest(tmp_path, *plugins, *LOOPS, "-n", "2", "--cov=test_it", tests=TESTS + ASYNC_TEST)

    assert "10 passed" in text
