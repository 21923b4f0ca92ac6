"""The streaming head compared with the eager one: by itself, and in training.

By itself: time as a multiple of the bare product, and added memory (``reports/HEAD.md``). In training: optimizer steps
of BERT-tiny on 4 x 128 x 3 full-length texts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.results.figures import added_bytes
from splade_bench.results.records import CellResult, HeadResult

pytestmark = pytest.mark.part("head", minutes=0.15)
MODES = ("standard", "memory-efficient")


@pytest.fixture(scope="module")
def measured() -> dict[str, CellResult]:
    return {}


@pytest.mark.takes_long
@pytest.mark.parametrize("memory_mode", MODES)
def test_head_cell(
    memory_mode: str, sweep: Sweep, measure_cell: Callable[[Cell], CellResult], measured: dict[str, CellResult]
) -> None:
    cell = Cell(
        workload="head", device=sweep.devices[0], batch_size=4, gradient_accumulation_steps=1, memory_mode=memory_mode
    )
    result = measure_cell(cell)
    measured[memory_mode] = result

    assert result.queries_seen == WORKLOADS["head"].queries
    assert result.step_time_s
    assert added_bytes(result)


@pytest.fixture
def eager_and_streaming(measured: dict[str, CellResult]) -> tuple[CellResult, CellResult]:
    if set(measured) != set(MODES):
        pytest.skip("needs both cells of this module in the same run")
    return measured["standard"], measured["memory-efficient"]


@pytest.mark.takes_long
def test_streaming_head_takes_a_third_of_the_memory(eager_and_streaming: tuple[CellResult, CellResult]) -> None:
    eager, streaming = (added_bytes(result) for result in eager_and_streaming)

    assert eager is not None and streaming is not None
    assert eager >= 3 * streaming


@pytest.mark.takes_long
def test_streaming_head_takes_a_third_of_the_time(
    eager_and_streaming: tuple[CellResult, CellResult], pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke checks no times: it may run on busy machines")
    eager, streaming = eager_and_streaming

    assert eager.step_time_s is not None and streaming.step_time_s is not None
    assert eager.step_time_s >= 3 * streaming.step_time_s


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
