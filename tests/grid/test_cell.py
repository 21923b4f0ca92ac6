from __future__ import annotations

from dataclasses import replace

import pytest

from splade_bench.config import MEMORY_MODES, MODEL_PRESETS
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES, Sweep
from splade_bench.grid.workloads import WORKLOADS


def test_a_sweep_is_every_combination_once() -> None:
    cells = list(Sweep(batch_sizes=(2, 8), gradient_accumulation_steps=(1, 4), seeds=(1, 2)).cells())

    assert len(cells) == len(set(cells)) == 2 * 2 * 3 * 2
    assert len({cell.cell_id for cell in cells}) == len(cells) // 2  # a seed is no grid point of its own


def test_the_default_profile_has_twelve_cells_and_batch_size_eight() -> None:
    cells = list(PROFILES["default"].cells())

    assert len(cells) >= 12
    assert any(cell.batch_size == 8 for cell in cells)


def test_the_full_profile_has_every_memory_mode() -> None:
    assert {cell.memory_mode for cell in PROFILES["full"].cells()} == set(MEMORY_MODES)


def test_what_another_trainer_or_dropout_does_is_another_grid_point() -> None:
    cell = Cell(workload="mini-256", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")
    others = [
        replace(cell, trainer="CachedSpladeLoss", trainer_size=2),
        replace(cell, trainer="CachedSpladeLoss", trainer_size=4),
        replace(cell, trainer="article"),
        replace(cell, attention_dropout=0.1),
        replace(cell, mixed_precision="bf16"),
    ]

    assert len({one.cell_id for one in (cell, *others)}) == 6
    assert others[-1].train_config.mixed_precision == "bf16"
    assert replace(cell, round=3).cell_id == cell.cell_id


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_runnable_and_treats_its_cells_alike(profile: str) -> None:
    for cell in PROFILES[profile].cells():
        assert WORKLOADS[cell.workload].model_name in MODEL_PRESETS
        assert cell.train_config.epochs == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"workload": "huge"}, "--workload huge"),
        ({"memory_modes": ["standard", "fast"]}, "--memory-modes fast"),
        ({"batch_sizes": [0]}, "--batch-sizes 0"),
        ({"gradient_accumulation_steps": [1, -1]}, "--gradient-accumulation-steps -1"),
        ({"max_steps": 0}, "--max-steps 0"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Sweep(**changes)  # type: ignore[arg-type]


def test_a_cell_survives_its_way_to_the_worker() -> None:
    from splade_bench.bench.protocol import CellRequest

    cell = Cell(workload="tiny", device="cpu", batch_size=2, gradient_accumulation_steps=1, memory_mode="article")
    request = CellRequest(cell=cell, measure="heap", corpus_folder=None)

    assert CellRequest.from_line(request.to_line()) == request
