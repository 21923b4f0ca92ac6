"""What a kind of device is known to take beside its storages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from results import MIB

from splade_bench.device.settings import SETTINGS
from splade_bench.planner.allocators import CudaCachingAllocator
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.results.records import CellResult, read_results
from splade_bench.worker.cell_builder import CellBuilder


@pytest.mark.parametrize(
    ("matrix", "measured_bytes"),
    [
        ((128, 512), 0.6 * MIB),
        ((384, 1024), 2.1 * MIB),
        ((384, 1536), 2.6 * MIB),
        ((768, 3072), 5.1 * MIB),
        ((128, 30522), 6.5 * MIB),
        ((384, 30522), 9.8 * MIB),
        ((768, 30522), 9.8 * MIB),
    ],
)
def test_the_packed_operands_of_two_threads_are_as_measured(matrix: tuple[int, int], measured_bytes: float) -> None:
    inner, columns = matrix

    assert device_model("cpu", threads=2).workspace_bytes(4 * inner * columns) == pytest.approx(
        measured_bytes, abs=0.5 * MIB
    )


@pytest.mark.parametrize("device_type", ["cuda", "mps"])
def test_an_accelerator_packs_nothing_in_the_processs_memory(device_type: str) -> None:
    assert device_model(device_type, threads=2).workspace_bytes(9 * MIB) == 0


RESULTS = Path(__file__).parents[2] / "reports" / "h100" / "results"
ON_AN_H100 = [
    result
    for result in read_results([RESULTS / "h100.jsonl"])
    if isinstance(result, CellResult) and result.workload in ("plan-bert-tiny-128", "plan-mini-128")
]


@pytest.mark.parametrize("measured", ON_AN_H100, ids=lambda measured: f"{measured.cell_id}-{measured.source_tree[:6]}")
def test_a_plan_for_cuda_reserves_what_was_measured_on_an_h100(
    measured: CellResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They were measured when a step had the sizes of a CPU on every device, and the head tiles.
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", dict.fromkeys(SETTINGS, SETTINGS["cpu"]))
    builder = CellBuilder(replace(measured.cell, device="cpu"), None, None)  # its encoder is made here
    lengths = Lengths.widest(builder.source(builder.new_encoder()))
    model = replace(
        device_model("cuda", threads=2), allocator=CudaCachingAllocator()
    )  # as on Hopper, wherever this runs

    memory = builder.config.memory
    config = replace(builder.config, memory=replace(memory, head=memory.head.replace("streaming", "tiled")))
    made = plan(builder.new_encoder, config, lengths, model, baseline_bytes=0)

    assert made.peak_bytes == pytest.approx(measured.device_peak_reserved_bytes, rel=0.01)
    if measured.live_peak_bytes is not None:
        # Since then the step has become smaller by a part of the vectors' gradient.
        assert made.live_peak_bytes == pytest.approx(measured.live_peak_bytes, rel=0.01)


def test_the_h100s_configurations_are_there() -> None:
    assert len({measured.cell_id for measured in ON_AN_H100}) == 6
    assert len(ON_AN_H100) == 9  # three of them were measured twice
