"""The streaming head against the eager one: by itself, and in training.

By itself: time as a multiple of the bare product, and extra memory (``reports/HEAD.md``). In training: optimizer steps
of BERT-tiny on 4 x 128 x 3 full-length texts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import Sweep
from splade_bench.results.records import CellResult, HeadResult

MODES = ("standard", "memory-efficient")


@pytest.fixture(scope="module")
def measured() -> dict[str, CellResult]:
    return {}


@pytest.mark.parametrize("memory_mode", MODES)
def test_head_cell(
    memory_mode: str, sweep: Sweep, measure_cell: Callable[[Cell], CellResult], measured: dict[str, CellResult]
) -> None:
    cell = Cell(
        workload="head", device=sweep.devices[0], batch_size=4, gradient_accumulation_steps=1, memory_mode=memory_mode
    )
    measured[memory_mode] = measure_cell(cell)


@pytest.fixture
def eager_and_streaming(measured: dict[str, CellResult]) -> tuple[CellResult, CellResult]:
    if set(measured) != set(MODES):
        pytest.skip("needs both cells of this module in the same run")
    return measured["standard"], measured["memory-efficient"]


def test_streaming_head_takes_a_third_of_the_memory(eager_and_streaming: tuple[CellResult, CellResult]) -> None:
    eager, streaming = eager_and_streaming

    assert _above_baseline(eager) >= 3 * _above_baseline(streaming)


def test_streaming_head_takes_a_third_of_the_time(
    eager_and_streaming: tuple[CellResult, CellResult], pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--profile") == "smoke":
        pytest.skip("smoke runs on machines that are busy with other things: it judges no times")
    eager, streaming = eager_and_streaming

    assert eager.step_time_s is not None
    assert streaming.step_time_s is not None
    assert eager.step_time_s >= 3 * streaming.step_time_s


@pytest.mark.takes_long
@pytest.mark.parametrize("head", ["streaming", "eager"])
@pytest.mark.parametrize("active_share", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("hidden_size", [128, 384, 768])
def test_head_by_itself(
    head: str, active_share: float, hidden_size: int, measure_head: Callable[..., HeadResult]
) -> None:
    result = measure_head(head, hidden_size=hidden_size, active_share=active_share)

    assert result.active_share == pytest.approx(active_share, abs=0.002)
    assert result.extra_bytes > 0


def _above_baseline(result: CellResult) -> int:
    assert result.peak_rss_bytes is not None and result.baseline_rss_bytes is not None
    return result.peak_rss_bytes - result.baseline_rss_bytes
