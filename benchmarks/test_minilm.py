"""What trained weights learn from the embedded corpus: ``minilm``, two epochs, three seeds, beside BM25.

The cells are in ``reports/TRADEOFFS.md``. ``docs/start.md`` says what the figures mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from statistics import mean

import pytest

from splade_bench.data.embedded import embedded_corpus
from splade_bench.evaluation.evaluator import evaluate_bm25
from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult
from splade_bench.starts import PACKAGED_MODELS

SEEDS = (1, 2, 3)
LONGEST_S = 600
ABOVE_BM25 = 0.10
CELL = Cell(
    workload="minilm",
    device="cpu",
    batch_size=64,
    gradient_accumulation_steps=1,
    # All activations are kept, as with `--activation-memory all` in docs/start.md.
    memory_mode="memory-efficient-without-gradient-caching",
    # On processors with instructions for bfloat16, a step takes about six tenths of the time.
    mixed_precision="bf16",
)


@pytest.mark.takes_long
@pytest.mark.part(minutes=24)
@pytest.mark.skipif(find_spec(PACKAGED_MODELS["minilm"].module) is None, reason="the extra [minilm] is not installed")
def test_minilm_ranks_better_than_bm25(record_cell: Callable[[Cell], CellResult]) -> None:
    results = [record_cell(replace(CELL, seed=seed)) for seed in SEEDS]
    held_out = embedded_corpus().test
    bm25 = evaluate_bm25(held_out) if held_out else None

    assert bm25
    assert [result.error for result in results] == [None] * len(SEEDS)
    assert max(result.wall_time_s or 0.0 for result in results) <= LONGEST_S
    assert mean(result.figure("mrr@10") or 0.0 for result in results) >= (bm25["mrr@10"] or 0.0) + ABOVE_BM25
