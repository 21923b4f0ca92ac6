"""This package compared with its peers: the same weights, batches, loss and optimizer, each run in a fresh process.

Every trainer's gradient is first compared with the plain definition's. Then a scan runs each peer once, in each of its
sizes, and the best size is kept. What ``fit`` chooses for the memory of a peer runs beside the peers, in rounds whose
order alternates. Some budgets between run once: they are points of the curves of memory against time. The page of the
results is ``reports/PEERS.md``, with what this package promises.

``--profile smoke`` scans one size of each peer, without SpladePooling-chunked, and has only the budgets that limits are
about: a comparison then takes minutes, as with ``-k "mini-256-real-b8 and 0.0" --rounds 3``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from contenders import COMPARISONS, NEEDS_PEERS, Comparison, contenders, in_rounds

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.protocol import CallRequest
from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER, Cell
from splade_bench.pytest_plugin.sweep import ROUNDS
from splade_bench.results.records import CellResult

pytestmark = NEEDS_PEERS
LARGEST_GRADIENT_ERROR = 1e-9
TIMEOUT_S = 600.0


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
@pytest.mark.parametrize(
    "comparison",
    [
        pytest.param(comparison, id=comparison.name, marks=pytest.mark.part(comparison.workload, minutes=20))
        for comparison in COMPARISONS
    ],
)
def test_peers(
    comparison: Comparison,
    attention_dropout: float,
    record_cell: Callable[[Cell], CellResult],
    pytestconfig: pytest.Config,
) -> None:
    def measure(cell: Cell) -> CellResult:
        return record_cell(replace(cell, attention_dropout=attention_dropout))

    cells = contenders(comparison, measure, quick=pytestconfig.getoption("--profile") == "smoke")
    rounds = pytestconfig.getoption("--rounds") or ROUNDS
    results = [measure(cell) for cell in in_rounds(cells, rounds)]

    assert [(result.cell_id, result.error) for result in results if result.status != "ok"] == []
