"""What a kind of device is known to take beside its storages."""

from __future__ import annotations

import pytest

from splade_bench.planner.device_models import device_model

MIB = 2**20


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
