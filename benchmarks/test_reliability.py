"""Campaigns that try to make a training lose something: faults of the disk, kills, damages, bad input, signals, time.

Each part is one record, whether it passed or not; the page of the records is ``reports/RELIABILITY.md``. With
``--profile smoke`` only a few of each kind are tried, and nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from faults import CALLS, build_shim

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.results.reliability import ReliabilityResult

pytestmark = pytest.mark.takes_long
# Module and function in benchmarks/reliability, and its keywords.
Campaign: TypeAlias = Callable[..., None]
SEED = 23


@pytest.fixture
def is_smoke(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--profile") == "smoke")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def with_shim(shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start now have it."""
    monkeypatch.setenv("LD_PRELOAD", str(shim))


@pytest.fixture
def campaign(measuring: MeasuringSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """Run a part of a campaign in a fresh process, record it, and fail with its failures."""
    # One thread: the commands are forks, and a sum in another order is another sum.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SPLADE_BENCH_CACHE", str(tmp_path / "cache"))

    def run(module: str, function: str, **keywords: Any) -> None:
        request = CallRequest(module=f"reliability.{module}", function=function, keywords=keywords)
        result = measuring.measure_as(ReliabilityResult, request)

        assert result.failures == []
        assert result.passed, f"{sum(result.seen.values())} of {result.tried} tries were judged"

    return run


@pytest.mark.usefixtures("with_shim")
@pytest.mark.parametrize("error_name", ["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_disk_fails(call: str, error_name: str, campaign: Campaign, is_smoke: bool) -> None:
    campaign("disk", "fail_calls", call=call, error_name=error_name, every=25 if is_smoke else 1)


@pytest.mark.usefixtures("with_shim")
def test_a_training_is_killed_at_each_call_of_the_disk(campaign: Campaign, is_smoke: bool) -> None:
    campaign("kills", "kill_at_calls", every=60 if is_smoke else 1)


def test_a_training_is_killed_at_fifty_moments(campaign: Campaign, is_smoke: bool) -> None:
    campaign("kills", "kill_at_moments", kills=3 if is_smoke else 50, seed=SEED)


def test_a_checkpoint_is_damaged(campaign: Campaign, is_smoke: bool) -> None:
    campaign("damages", "damage_files", damages=20 if is_smoke else 500, seed=SEED)
