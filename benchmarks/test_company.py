"""A machine in use: this package and sentence-transformers beside 0, 1 and 2 busy processes.

The trainers run in turn, beside each number of processes, in an order that alternates between rounds. A peer takes
minutes for a step beside a busy process: a run that ``--cell-timeout`` ends is a result, which says what a step took at
least. The page of the results is ``reports/COMPANY.md``, with what this package promises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from contenders import NEEDS_PEERS, in_rounds

from splade_bench.grid.cell import OWN_TRAINER, PEER_MODE, Cell
from splade_bench.pytest_plugin.sweep import ROUNDS
from splade_bench.results.records import CellResult

pytestmark = NEEDS_PEERS
BUSY_PROCESSES = (0, 1, 2)
TIMED_STEPS = 2
OWN = Cell(
    workload="company",
    device="cpu",
    batch_size=8,
    gradient_accumulation_steps=1,
    memory_mode="memory-efficient",
    max_steps=1 + TIMED_STEPS,  # the first is on a few tokens
)
TRAINERS = (
    OWN,
    replace(OWN, trainer="SpladeLoss", memory_mode=PEER_MODE),
    # The size that is best in test_peers.py.
    replace(OWN, trainer="CachedSpladeLoss", trainer_size=1, memory_mode=PEER_MODE),
)


@pytest.mark.takes_long
@pytest.mark.part(minutes=25)
def test_company(record_cell: Callable[[Cell], CellResult], pytestconfig: pytest.Config) -> None:
    cells = [replace(cell, busy_processes=count) for count, cell in product(BUSY_PROCESSES, TRAINERS)]
    rounds = pytestconfig.getoption("--rounds") or ROUNDS
    results = [record_cell(cell) for cell in in_rounds(cells, rounds)]

    assert [
        (result.cell_id, result.error)
        for result in results
        if result.status not in (("ok",) if result.trainer == OWN_TRAINER else ("ok", "timeout"))
    ] == []
