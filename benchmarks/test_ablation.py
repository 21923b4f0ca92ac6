"""Each technique alone, and each left out of the full set; and the quality of the modes over seeds.

The page of the results is ``reports/ABLATION.md``: what a technique saves, what it costs, and how it changes MRR@10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from splade_bench.grid.cell import Cell
from splade_bench.memory_modes import MEMORY_MODES, MEMORY_TECHNIQUES, MemoryConfig
from splade_bench.pytest_plugin.sweep import ROUNDS
from splade_bench.report.intervals import interval_90
from splade_bench.results.records import CellResult

SEEDS = (1, 2, 3, 4, 5)
REFERENCE = "memory-efficient"
AUTOCAST = {"memory_mode": REFERENCE, "mixed_precision": "bf16"}
# These have no effect alone: they need mini-batches, or widths that follow the texts.
NEED_OTHERS = ("smallest-mini-batches", "length-buckets")
# Of one process: the one that is left out shares moments out between several.
TECHNIQUES = [name for name in MEMORY_TECHNIQUES if name != "optimizer-states-sharded"]
# Techniques that change the result of training: each is compared over seeds.
INEXACT: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("quality", {"memory_mode": f"{REFERENCE}+optimizer-states-bfloat16"}),
    ("quality", AUTOCAST),
    ("ablation", {"memory_mode": f"{REFERENCE}+no-attention-dropout"}),
)


def is_on(memory: MemoryConfig, technique: str) -> bool:
    return MEMORY_TECHNIQUES[technique].is_on(memory)


def ablated_modes() -> Iterator[str]:
    """The names of all memory modes to run, each near the one it is compared with."""
    standard, full, minimal = (MEMORY_MODES[name] for name in ("standard", "memory-efficient", "minimal-memory"))
    yield "standard"
    yield from (f"standard+{name}" for name in TECHNIQUES if not is_on(standard, name) and name not in NEED_OTHERS)
    yield "memory-efficient"
    yield from (f"memory-efficient-without-{name}" for name in TECHNIQUES if is_on(full, name))
    yield from (f"memory-efficient+{name}" for name in TECHNIQUES if not is_on(full, name))
    yield "minimal-memory"
    yield from (
        f"minimal-memory-without-{name}" for name in TECHNIQUES if is_on(minimal, name) and not is_on(full, name)
    )


def settings() -> Iterator[Mapping[str, Any]]:
    """These modes and autocast, as fields of a cell."""
    yield from ({"memory_mode": name} for name in ablated_modes())
    yield AUTOCAST


def name_of(setting: Mapping[str, Any]) -> str:
    return "-".join(setting.values())


def make_cell(workload: str, seed: int, **changes: Any) -> Cell:
    cell = Cell(
        workload=workload,
        device="cpu",
        batch_size=8 if workload == "ablation-mini" else 16,
        gradient_accumulation_steps=1,
        memory_mode=REFERENCE,
        max_steps=2 if workload == "ablation-mini" else None,  # the first is on a few tokens
        attention_dropout=0.0 if workload == "quality" else 0.1,
        seed=seed,
    )
    return replace(cell, **changes)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every setting in each round, so that a drift of the machine affects all of them equally."""
    if {"setting", "round_number"} <= set(metafunc.fixturenames):
        rounds = range(1, (metafunc.config.getoption("--rounds") or ROUNDS) + 1)
        # With a collection every five batches there is none in two.
        chosen = [setting for setting in settings() if not name_of(setting).endswith("garbage-collection")]
        cases = [(setting, number) for number in rounds for setting in chosen]
        metafunc.parametrize(
            ("setting", "round_number"),
            [
                pytest.param(
                    setting,
                    number,
                    id=f"{name_of(setting)}-{number}",
                    marks=pytest.mark.part(f"round {number}", minutes=0.4),
                )
                for setting, number in cases
            ],
        )


@pytest.mark.takes_long
def test_what_a_technique_saves_and_costs(
    setting: Mapping[str, Any], round_number: int, record_cell: Callable[[Cell], CellResult]
) -> None:
    result = record_cell(make_cell("ablation-mini", SEEDS[0], round=round_number, **setting))

    assert result.status == "ok", result.error
    assert result.step_time_s and result.peak_rss_bytes


@pytest.mark.takes_long
@pytest.mark.part("training", minutes=0.2)
@pytest.mark.parametrize("setting", list(settings()), ids=name_of)
def test_what_a_technique_does_to_training(
    setting: Mapping[str, Any], record_cell: Callable[[Cell], CellResult]
) -> None:
    result = record_cell(make_cell("ablation", SEEDS[0], **setting))

    assert result.status == "ok", result.error
    assert result.metrics


def mrr_differences(
    workload: str, setting: Mapping[str, Any], reference: str, record_cell: Callable[[Cell], CellResult]
) -> tuple[list[float], float]:
    """The difference of each seed's pair, and the largest relative difference of the first ten losses of a pair."""
    differences, loss_differences = [], [0.0]
    for seed in SEEDS:
        own = record_cell(make_cell(workload, seed, **setting))
        other = record_cell(make_cell(workload, seed, memory_mode=reference))
        assert own.metrics and own.losses, own.error
        assert other.metrics and other.losses, other.error
        differences.append(own.metrics["mrr@10"] - other.metrics["mrr@10"])
        first = list(zip(own.losses, other.losses, strict=True))[:10]
        assert len(first) == 10
        loss_differences += [abs(loss - its) / abs(its) for loss, its in first]
    return differences, max(loss_differences)


@pytest.mark.takes_long
@pytest.mark.part("training", minutes=2)
def test_memory_efficient_training_ranks_like_standard_training(record_cell: Callable[[Cell], CellResult]) -> None:
    differences, loss_difference = mrr_differences(
        "quality", {"memory_mode": "memory-efficient"}, "standard", record_cell
    )

    interval = interval_90(differences)
    assert interval.low >= -0.01
    assert interval.high <= 0.01
    assert loss_difference <= 1e-5


@pytest.mark.takes_long
@pytest.mark.part("training", minutes=2)
@pytest.mark.parametrize(("workload", "setting"), INEXACT)
def test_inexact_techniques_have_a_verdict_of_their_own(
    workload: str, setting: Mapping[str, Any], record_cell: Callable[[Cell], CellResult]
) -> None:
    differences, _ = mrr_differences(workload, setting, REFERENCE, record_cell)

    assert any(differences), "the same figures: the technique was not switched on"
