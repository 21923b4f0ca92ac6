"""This package compared with its peers: the same weights, batches, loss and optimizer, each run in a fresh process.

Every trainer's gradient is first compared with the plain definition's. A peer that has a size gets the best size of a
scan. Then all run in turn, in an order that alternates between rounds. The page of the results is ``reports/PEERS.md``,
with what this package promises.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import pytest

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.protocol import CallRequest
from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER, PEER_MODE, Cell
from splade_bench.pytest_plugin.sweep import ROUNDS
from splade_bench.results.records import CellResult

# Sizes with at most this multiple of the shortest time are fast; the best of them has the smallest peak.
AS_FAST_WITHIN = 1.05
LARGEST_GRADIENT_ERROR = 1e-9
TIMEOUT_S = 600.0
CHUNK_SIZES = (32, 128)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A workload and the runs on it."""

    workload: str
    batch_size: int
    timed_steps: int
    mini_batch_sizes: Sequence[int] = ()
    """Of CachedSpladeLoss, to scan; empty: without sentence-transformers' losses."""
    article_batch_size: int | None = None
    """For the article's algorithm, if it does not fit at batch_size."""
    minimal_memory: bool = False

    @property
    def name(self) -> str:
        return f"{self.workload}-b{self.batch_size}"

    def cell(self, **changes: object) -> Cell:
        cell = Cell(
            workload=self.workload,
            device="cpu",
            batch_size=self.batch_size,
            gradient_accumulation_steps=1,
            memory_mode="memory-efficient",
            max_steps=1 + self.timed_steps,  # the first is on a few tokens
        )
        return replace(cell, **changes)  # type: ignore[arg-type]

    def peer(self, trainer: str, size: int | None = None) -> Cell:
        # A peer's mode says only how its batches are padded; the article's algorithm pads them to the full width.
        return self.cell(trainer=trainer, trainer_size=size, memory_mode=PEER_MODE)


COMPARISONS = (
    Comparison(workload="bert-tiny-128", batch_size=4, timed_steps=4, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="mini-256-real", batch_size=8, timed_steps=2, mini_batch_sizes=(1, 2, 4, 8)),
    Comparison(workload="base-256-real", batch_size=4, timed_steps=1, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="mini-256", batch_size=8, timed_steps=1, mini_batch_sizes=(1, 2, 4)),
    Comparison(workload="base-512", batch_size=2, timed_steps=1, mini_batch_sizes=(1, 2)),
    Comparison(workload="base-512", batch_size=8, timed_steps=1, article_batch_size=4, minimal_memory=True),
)


@pytest.fixture(scope="module", autouse=True)
def _has_peers() -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("needs sentence-transformers: pip install 'splade-bench[peers]'")


@pytest.mark.takes_long
@pytest.mark.parametrize(
    "trainer",
    [OWN_TRAINER, "minimal-memory", ARTICLE_TRAINER, "SpladeLoss", "SpladePooling-chunked", "CachedSpladeLoss"],
)
def test_every_trainer_makes_the_gradient_of_the_plain_definition(trainer: str) -> None:
    comparison = COMPARISONS[0]
    if trainer in (OWN_TRAINER, "minimal-memory"):
        cell = comparison.cell(memory_mode="memory-efficient" if trainer == OWN_TRAINER else trainer)
    else:
        cell = comparison.peer(trainer, size={"SpladePooling-chunked": 8, "CachedSpladeLoss": 3}.get(trainer))

    request = CallRequest(module="gradient_check", function="gradient_error", keywords=asdict(cell))
    assert CallRunner(timeout_s=TIMEOUT_S).value_of(request) <= LARGEST_GRADIENT_ERROR


@pytest.mark.takes_long
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.name)
def test_peers(
    comparison: Comparison,
    attention_dropout: float,
    record_cell: Callable[[Cell], CellResult],
    pytestconfig: pytest.Config,
) -> None:
    cells = [
        replace(cell, attention_dropout=attention_dropout)
        for cell in contenders(comparison, attention_dropout, record_cell)
    ]
    results = []
    for round_number in range(1, (pytestconfig.getoption("--rounds") or ROUNDS) + 1):
        order = cells if round_number % 2 else cells[::-1]
        results += [record_cell(replace(cell, round=round_number)) for cell in order]

    assert [(result.cell_id, result.error) for result in results if result.status != "ok"] == []


def contenders(
    comparison: Comparison, attention_dropout: float, record_cell: Callable[[Cell], CellResult]
) -> list[Cell]:
    """The cells to compare, each peer at its best size."""
    modes = ["memory-efficient", *(["minimal-memory"] if comparison.minimal_memory else [])]
    article_batch_size = comparison.article_batch_size or comparison.batch_size
    article = replace(comparison.peer(ARTICLE_TRAINER), batch_size=article_batch_size)
    cells = [*(comparison.cell(memory_mode=mode) for mode in modes), article]
    if comparison.mini_batch_sizes:
        cells.append(comparison.peer("SpladeLoss"))
        for trainer, sizes in (
            ("SpladePooling-chunked", CHUNK_SIZES),
            ("CachedSpladeLoss", comparison.mini_batch_sizes),
        ):
            scanned = [
                record_cell(replace(comparison.peer(trainer, size), attention_dropout=attention_dropout))
                for size in sizes
            ]
            cells.append(comparison.peer(trainer, best_size(scanned)))
    return cells


def best_size(scanned: Sequence[CellResult]) -> int | None:
    """The size with the smallest peak among the fast ones."""
    times_s = {result.trainer_size: result.step_time_s for result in scanned if result.step_time_s is not None}
    assert times_s, [result.error for result in scanned]
    limit_s = AS_FAST_WITHIN * min(times_s.values())
    fast = [result for result in scanned if result.step_time_s is not None and result.step_time_s <= limit_s]
    return min(fast, key=lambda result: result.peak_rss_bytes or 0).trainer_size
