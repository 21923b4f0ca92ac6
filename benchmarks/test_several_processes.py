"""Several processes of one training: one is killed at ten moments, and two are timed beside one with two threads.

Each part is a record; their page is ``reports/SEVERAL_PROCESSES.md``. ``--profile smoke`` kills two and times nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.results.reliability import ReliabilityResult
from splade_bench.runtime import runtime_environment

pytestmark = pytest.mark.takes_long
SEED = 27


@pytest.fixture
def is_smoke(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--profile") == "smoke")


def measure(
    measuring: MeasuringSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, **keywords: Any
) -> None:
    """Run a part in a fresh process, record it, and fail with its failures."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SPLADE_BENCH_CACHE", str(tmp_path / "cache"))
    for name, value in runtime_environment().items():
        monkeypatch.setenv(name, value)
    request = CallRequest(module="ranks", function=function, keywords=keywords)
    result = measuring.measure_as(ReliabilityResult, request)
    assert result.failures == []
    assert result.passed


def test_a_rank_is_killed_at_ten_moments(
    measuring: MeasuringSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_smoke: bool
) -> None:
    measure(measuring, tmp_path, monkeypatch, "kill_ranks", kills=2 if is_smoke else 10, seed=SEED)


def test_two_processes_train_as_fast_as_two_threads(
    measuring: MeasuringSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_smoke: bool
) -> None:
    if is_smoke:
        pytest.skip("smoke checks no times: it may run on busy machines")
    shape = {"model": "mini", "batch_size": 32, "pairs": 3, "steps": 12}
    measure(measuring, tmp_path, monkeypatch, "compare_throughput", **shape)
