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
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.results.reliability import ReliabilityResult
from splade_bench.runtime import runtime_environment

pytestmark = [pytest.mark.takes_long, pytest.mark.part(minutes=2)]
# Module and function in benchmarks/reliability, and its keywords.
Campaign: TypeAlias = Callable[..., None]
SEED = 23
ROOT = Path(__file__).parent.parent
CASES = ROOT.parent / "shared" / "cases" / "files"


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
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For parts that fork: a fork has none of the threads of a pool."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def timed(is_smoke: bool) -> None:
    if is_smoke:
        pytest.skip("smoke checks no times: it may run on busy machines")


@pytest.fixture
def campaign(measuring: MeasuringSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """Run a part of a campaign in a fresh process, record it, and fail with its failures."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SPLADE_BENCH_CACHE", str(tmp_path / "cache"))
    for name, value in runtime_environment().items():  # the command line has it before torch is imported
        monkeypatch.setenv(name, value)

    def run(module: str, function: str, **keywords: Any) -> None:
        request = CallRequest(module=f"reliability.{module}", function=function, keywords=keywords)
        result = measuring.measure_as(ReliabilityResult, request)

        assert result.failures == []
        assert result.passed, f"{sum(result.seen.values())} of {result.tried} tries were judged"

    return run


@pytest.mark.usefixtures("with_shim", "one_thread")
@pytest.mark.parametrize("error_name", ["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_disk_fails(call: str, error_name: str, campaign: Campaign, is_smoke: bool) -> None:
    campaign("disk", "fail_calls", call=call, error_name=error_name, every=25 if is_smoke else 1)


@pytest.mark.usefixtures("with_shim", "one_thread")
def test_a_training_is_killed_at_each_call_of_the_disk(campaign: Campaign, is_smoke: bool) -> None:
    campaign("kills", "kill_at_calls", every=60 if is_smoke else 1)


@pytest.mark.usefixtures("one_thread")
def test_a_training_is_killed_at_fifty_moments(campaign: Campaign, is_smoke: bool) -> None:
    campaign("kills", "kill_at_moments", kills=3 if is_smoke else 50, seed=SEED)


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_is_damaged(campaign: Campaign, is_smoke: bool) -> None:
    campaign("damages", "damage_files", damages=20 if is_smoke else 500, seed=SEED)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("module", "function", "inputs"),
    [
        ("bad_data", "read_training_files", 2000),
        ("bad_data", "read_validation_files", 800),
        ("bad_json", "read_gate_files", 800),
        ("bad_json", "read_results_files", 600),
        ("bad_json", "read_checkpoints", 200),
        ("bad_flags", "read_flags", 2000),
    ],
)
def test_an_input_is_malformed(module: str, function: str, inputs: int, campaign: Campaign, is_smoke: bool) -> None:
    campaign(module, function, count=inputs // 50 if is_smoke else inputs, seed=SEED)


def test_a_file_of_a_real_report_is_read(campaign: Campaign) -> None:
    if not CASES.is_dir():
        pytest.skip("there are no files of real reports beside this checkout")
    campaign("bad_flags", "read_cases", folder_name=str(CASES), seed=SEED)


@pytest.mark.usefixtures("one_thread")
def test_a_signal_stops_each_part_of_a_training(campaign: Campaign, is_smoke: bool) -> None:
    campaign("stops", "stop_in_each_part", every=15 if is_smoke else 1)


@pytest.mark.usefixtures("one_thread")
def test_a_signal_that_was_ignored_stays_ignored(campaign: Campaign) -> None:
    campaign("stops", "stay_ignored")


@pytest.mark.usefixtures("timed")
def test_a_signal_stops_a_batch_that_takes_long(campaign: Campaign) -> None:
    campaign("stops", "stop_large_batch", model="mini", batch_size=64)


@pytest.mark.usefixtures("timed")
@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_memory_does_not_grow_in_a_long_training(mode: str, campaign: Campaign) -> None:
    campaign("soak", "train_long", mode=mode, steps=1000, from_step=200)


@pytest.mark.usefixtures("timed")
def test_checkpoints_cost_little(campaign: Campaign) -> None:
    campaign("cost", "pay_for_checkpoints", model="mini", batch_size=8, pairs=3, steps=50, every=50)


@pytest.mark.usefixtures("timed")
def test_a_million_triples_take_little_memory_and_time(campaign: Campaign) -> None:
    campaign("large_file", "train_on_many", model="mini", triples=10**6, steps=30)


def test_each_flag_has_a_test(campaign: Campaign) -> None:
    campaign("flag_tests", "find_tests", folder=str(ROOT / "tests"))
