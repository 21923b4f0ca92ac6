"""Each technique alone and each left out of the full set; and what the modes do to quality, over seeds.

What comes out stands in ``reports/ABLATION.md``: what a technique saves, what it costs, what it does to MRR@10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from splade_bench.cell import Cell
from splade_bench.config import MEMORY_MODES, MEMORY_TECHNIQUES, MemoryConfig
from splade_bench.report.ablation import interval_90
from splade_bench.results import CellResult

SEEDS = (1, 2, 3, 4, 5)
# These change nothing by themselves: they need mini-batches, or widths that follow the texts.
NEED_OTHERS = ("smallest-mini-batches", "length-buckets")
# Techniques that change the result of training, each judged by its own quality over seeds.
INEXACT = {
    "quality": ["memory-efficient+optimizer-states-bfloat16"],
    "ablation": ["memory-efficient+no-attention-dropout"],
}


def is_on(memory: MemoryConfig, technique: str) -> bool:
    return all(getattr(memory, name) == value for name, value in MEMORY_TECHNIQUES[technique].items())


def ablated_modes() -> Iterator[str]:
    """The names of all memory settings to run, each beside the one it is compared with."""
    standard, full, minimal = (MEMORY_MODES[name] for name in ("standard", "memory-efficient", "minimal-memory"))
    yield "standard"
    yield from (
        f"standard+{name}" for name in MEMORY_TECHNIQUES if not is_on(standard, name) and name not in NEED_OTHERS
    )
    yield "memory-efficient"
    yield from (f"memory-efficient-without-{name}" for name in MEMORY_TECHNIQUES if is_on(full, name))
    yield from (f"memory-efficient+{name}" for name in MEMORY_TECHNIQUES if not is_on(full, name))
    yield "minimal-memory"
    yield from (
        f"minimal-memory-without-{name}" for name in MEMORY_TECHNIQUES if is_on(minimal, name) and not is_on(full, name)
    )


def make_cell(workload: str, memory_mode: str, seed: int) -> Cell:
    return Cell(
        workload=workload,
        device="cpu",
        batch_size=16,
        gradient_accumulation_steps=1,
        memory_mode=memory_mode,
        attention_dropout=0.1 if workload == "ablation" else 0.0,
        seed=seed,
    )


@pytest.mark.takes_long
@pytest.mark.parametrize("memory_mode", list(ablated_modes()))
def test_technique(memory_mode: str, record_cell: Callable[[Cell], CellResult]) -> None:
    result = record_cell(make_cell("ablation", memory_mode, SEEDS[0]))

    assert result.status == "ok", result.error
    assert result.metrics


def mrr_differences(
    workload: str, memory_mode: str, reference: str, record_cell: Callable[[Cell], CellResult]
) -> tuple[list[float], float]:
    """Of each seed's pair; and the largest relative difference in one of the first ten losses of a pair."""
    differences, loss_differences = [], [0.0]
    for seed in SEEDS:
        own, other = (record_cell(make_cell(workload, mode, seed)) for mode in (memory_mode, reference))
        assert own.metrics and own.losses, own.error
        assert other.metrics and other.losses, other.error
        differences.append(own.metrics["mrr@10"] - other.metrics["mrr@10"])
        first = list(zip(own.losses, other.losses, strict=True))[:10]
        assert len(first) == 10
        loss_differences += [abs(loss - its) / abs(its) for loss, its in first]
    return differences, max(loss_differences)


@pytest.mark.takes_long
def test_memory_efficient_training_ranks_as_the_standard_one(record_cell: Callable[[Cell], CellResult]) -> None:
    differences, loss_difference = mrr_differences("quality", "memory-efficient", "standard", record_cell)

    low, high = interval_90(differences)
    assert low >= -0.01
    assert high <= 0.01
    assert loss_difference <= 1e-5


@pytest.mark.takes_long
@pytest.mark.parametrize(
    ("workload", "memory_mode"), [(workload, mode) for workload, modes in INEXACT.items() for mode in modes]
)
def test_inexact_techniques_have_a_verdict_of_their_own(
    workload: str, memory_mode: str, record_cell: Callable[[Cell], CellResult]
) -> None:
    differences, _ = mrr_differences(workload, memory_mode, "memory-efficient", record_cell)

    assert len(differences) == len(SEEDS)
