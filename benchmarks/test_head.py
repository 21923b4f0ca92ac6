"""The streaming head compared with the eager one: by itself, and in training.

By itself: time as a multiple of the bare product, and added memory (``reports/HEAD.md``). In training: optimizer steps
of BERT-tiny on 4 x 128 x 3 full-length texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.pytest_plugin.sweep import ROUNDS
from splade_bench.report.readers import median_of
from splade_bench.results.figures import Reader, added_bytes, step_time_s
from splade_bench.results.head import HeadResult
from splade_bench.results.records import CellResult

pytestmark = pytest.mark.part("head", minutes=0.15)
MODES = ("standard", "memory-efficient")


@pytest.fixture(scope="module")
def measured() -> dict[str, list[CellResult]]:
    """Memory mode -> its rounds."""
    return {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both modes in each round, in an order that alternates."""
    if "round_number" in metafunc.fixturenames:
        rounds = range(1, (metafunc.config.getoption("--rounds") or ROUNDS) + 1)
        turns = [(mode, number) for number in rounds for mode in (MODES if number % 2 else MODES[::-1])]
        metafunc.parametrize(("memory_mode", "round_number"), turns)


@pytest.mark.takes_long
def test_head_cell(
    memory_mode: str,
    round_number: int,
    sweep: Sweep,
    measure_cell: Callable[[Cell], CellResult],
    measured: dict[str, list[CellResult]],
) -> None:
    cell = Cell(
        workload="head",
        device=sweep.devices[0],
        batch_size=4,
        gradient_accumulation_steps=1,
        memory_mode=memory_mode,
        round=round_number,
    )
    result = measure_cell(cell)
    measured.setdefault(memory_mode, []).append(result)

    assert result.queries_seen == WORKLOADS["head"].queries
    assert result.step_time_s
    assert added_bytes(result)


Medians: TypeAlias = Callable[[Reader], tuple[float, float]]


@pytest.fixture
def medians(measured: dict[str, list[CellResult]]) -> Medians:
    """Of a figure, that of the eager head and that of the streaming one."""
    if set(measured) != set(MODES):
        pytest.skip("needs both cells of this module in the same run")

    def of_both(reader: Reader) -> tuple[float, float]:
        eager, streaming = (median_of(measured[mode], reader) for mode in MODES)
        assert eager is not None and streaming is not None
        return eager, streaming

    return of_both


@pytest.mark.takes_long
def test_streaming_head_takes_a_third_of_the_memory(medians: Medians) -> None:
    eager, streaming = medians(added_bytes)

    assert eager >= 3 * streaming


@pytest.mark.takes_long
def test_streaming_head_takes_a_third_of_the_time(medians: Medians, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke checks no times: it may run on busy machines")
    eager, streaming = medians(step_time_s)

    assert eager >= 3 * streaming


@pytest.mark.takes_long
@pytest.mark.parametrize("head", ["streaming", "eager"])
@pytest.mark.parametrize("active_share", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("hidden_size", [128, 384, 768])
def test_head_by_itself(head: str, active_share: float, hidden_size: int, measuring: MeasuringSession) -> None:
    settings = {"head": head, "hidden_size": hidden_size, "active_share": active_share}
    request = CallRequest(module="head_alone", function="measure_head", keywords=settings)
    result = measuring.measure_as(HeadResult, request)

    assert result.active_share == pytest.approx(active_share, abs=0.002)
    assert result.extra_bytes > 0
