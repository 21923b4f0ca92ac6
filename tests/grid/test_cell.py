from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from splade_bench.config import MODEL_PRESETS
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import ARTICLE_TRAINER, PEER_MODE, TRAINERS, Cell
from splade_bench.grid.sweep import PROFILES, Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.memory_modes import MEMORY_MODES, memory_mode

CELL = Cell(workload="mini-256", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")


def test_a_sweep_is_every_combination_once() -> None:
    cells = list(Sweep(batch_sizes=(2, 8), gradient_accumulation_steps=(1, 4), seeds=(1, 2)).cells())

    assert len(cells) == len(set(cells)) == 2 * 2 * 3 * 2
    assert len({cell.cell_id for cell in cells}) == len(cells) // 2  # seeds share a grid point


@pytest.mark.parametrize(
    ("axis", "values"), [("processes", (2, 2)), ("memory_modes", ("article", "standard", "article")), ("seeds", (1, 1))]
)
def test_an_axis_with_a_value_twice_is_refused(axis: str, values: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=f"--{axis.replace('_', '-')}: has {values[-1]} twice"):
        PROFILES["default"].changed(**{axis: values})


def points(sweep: Sweep, mode: str) -> set[tuple[int, int]]:
    return {(cell.batch_size, cell.gradient_accumulation_steps) for cell in sweep.cells() if cell.memory_mode == mode}


def test_the_default_profile_is_small_and_has_what_the_claims_compare() -> None:
    sweep = PROFILES["default"]

    assert len([*sweep.cells()]) == len({*sweep.cells()}) <= 12
    assert all(
        len([cell for cell in sweep.cells() if (cell.memory_mode, cell.batch_size) == (mode, 16)]) == 2
        for mode in MEMORY_MODES
    )
    # Claims 4 to 6 compare all modes at one grid point, the others accumulation with one batch as large as all of them.
    assert all((16, 1) in points(sweep, mode) for mode in MEMORY_MODES)
    for mode in ("standard", "memory-efficient"):
        assert points(sweep, mode) == {(16, 1), (4, 1), (4, 4)}


def test_an_axis_that_a_user_chooses_makes_the_grid_a_product() -> None:
    sweep = PROFILES["default"]

    assert [*sweep.changed(batch_sizes=(8,)).cells()] == [
        replace(cell, batch_size=8) for cell in sweep.cells() if cell.batch_size == 16
    ]
    assert points(sweep.changed(memory_modes=("article",)), "article") == {(16, 1)}


def test_other_changes_reach_every_cell_of_a_sweep() -> None:
    sweep = PROFILES["default"]
    changed = sweep.changed(workload="mini", max_steps=2, devices=("mps",))

    assert [*changed.cells()] == [replace(cell, workload="mini", max_steps=2, device="mps") for cell in sweep.cells()]


@pytest.mark.parametrize("repeated", [{"rounds": 3}, {"seeds": (1, 2, 3)}])
def test_the_order_of_modes_alternates(repeated: dict[str, Any]) -> None:
    sweep = Sweep(batch_sizes=(8,), gradient_accumulation_steps=(1,), memory_modes=("standard", "article"), **repeated)

    turns = [cell.memory_mode for cell in sweep.cells()]

    assert turns == ["standard", "article", "article", "standard", "standard", "article"]


def test_the_full_profile_has_every_memory_mode() -> None:
    assert {cell.memory_mode for cell in PROFILES["full"].cells()} == set(MEMORY_MODES)


AXES: dict[str, list[Any]] = {
    "workload": ["base", "base-512"],
    "batch_size": [4, 41],
    "memory_mode": [*MEMORY_MODES, "standard+dynamic-padding", "standard+streaming-head"],
    "trainer": [*TRAINERS],
    "trainer_size": [None, 1, 4],
    "attention_dropout": [0.0, 0.1, 0.125],
    "mixed_precision": ["no", "bf16", "fp16"],
    "memory_budget_bytes": [None, 4206 * 2**20],
    "processes": [1, 2],
    "busy_processes": [0, 1],
    "memory_limit_bytes": [None, 2**30, 2**30 + 1, 10 * 2**30, 10 * 2**30 + 2**25],
}


def test_distinct_cells_have_distinct_names() -> None:
    cells = [replace(CELL, **dict(zip(AXES, values, strict=True))) for values in product(*AXES.values())]

    names = {cell.cell_id: cell for cell in cells}

    assert len(names) == len(cells)


def test_the_articles_memory_mode_and_its_trainer_are_two_cells() -> None:
    mode, peer = replace(CELL, memory_mode="article"), replace(CELL, trainer=ARTICLE_TRAINER, memory_mode=PEER_MODE)

    assert mode.cell_id == "mini-256-cpu-b8-a1-article"
    assert peer.cell_id == "mini-256-cpu-b8-a1-article-trainer"


def test_a_budget_and_busy_processes_are_added_to_the_name() -> None:
    fitted = replace(CELL, memory_budget_bytes=4206 * 2**20)

    assert fitted.cell_id == "mini-256-cpu-b8-a1-standard-fit4206MiB"
    assert replace(CELL, busy_processes=2).cell_id == "mini-256-cpu-b8-a1-standard-busy2"


def test_the_number_of_processes_is_in_the_name_if_there_are_several() -> None:
    assert replace(CELL, processes=2).cell_id == "mini-256-cpu-b8-a1-standard-processes2"
    assert replace(CELL, processes=1).cell_id == "mini-256-cpu-b8-a1-standard"


def test_each_cell_of_a_sweep_comes_with_each_number_of_processes() -> None:
    sweep = PROFILES["default"]

    cells = [*sweep.changed(processes=(1, 2)).cells()]

    assert [cell for cell in cells if cell.processes == 1] == [*sweep.cells()]
    assert {replace(cell, processes=1) for cell in cells if cell.processes == 2} == {*sweep.cells()}
    modes = [cell.memory_mode for cell in cells[:8]]
    assert modes[:4] == modes[4:] == [*MEMORY_MODES], "modes that are compared come in turn"


def test_a_seed_or_a_round_is_not_in_the_name() -> None:
    assert replace(CELL, round=3, seed=7).cell_id == CELL.cell_id


def test_a_cells_settings_reach_its_training() -> None:
    assert replace(CELL, mixed_precision="bf16").train_config.mixed_precision == "bf16"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_runnable_and_trains_each_query_once_with_scaled_learning_rates(profile: str) -> None:
    for cell in PROFILES[profile].cells():
        workload, config = WORKLOADS[cell.workload], cell.train_config
        effective_batch_size = cell.batch_size * cell.gradient_accumulation_steps
        assert workload.model_name in MODEL_PRESETS
        assert config.epochs == 1
        assert config.memory == memory_mode(cell.memory_mode)
        assert (config.batch_size, config.max_steps, config.seed) == (cell.batch_size, cell.max_steps, cell.seed)
        assert config.learning_rate == pytest.approx(workload.learning_rate * (effective_batch_size / 8) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"workload": "huge"}, "--workload huge"),
        ({"memory_modes": ["standard", "fast"]}, "--memory-modes fast"),
        ({"batch_sizes": [0]}, "--batch-sizes 0"),
        ({"gradient_accumulation_steps": [1, -1]}, "--gradient-accumulation-steps -1"),
        ({"max_steps": 0}, "--max-steps 0"),
        ({"processes": [1, 0]}, "--processes 0"),
        ({"processes": [1, 2], "devices": ["cpu", "mps"]}, "--processes 2: MPS trains in one process"),
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
