"""Which cells a comparison with peers scans, and which then run in rounds."""

from __future__ import annotations

from contenders import COMPARISONS, budgets_between, contenders
from results import MIB, make_cell_result

from splade_bench.grid.cell import Cell
from splade_bench.results.records import CellResult

MINI_REAL = next(comparison for comparison in COMPARISONS if comparison.name == "mini-256-real-b8")
PEAKS_MIB = {"splade-bench": 862, "SpladeLoss": 3510.5, "article-trainer": 4910, "SpladePooling-chunked": 3000}
# Of CachedSpladeLoss: seconds and MiB of each size. The fastest has a larger peak than one that is nearly as fast.
CACHED = {1: (5.0, 1245.9), 2: (4.9, 1315), 4: (6.0, 1100), 8: (6.4, 2232)}


class Measured:
    """Cells that were run, each with a time and a peak of its own."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []

    def __call__(self, cell: Cell) -> CellResult:
        self.cells.append(cell)
        time_s, peak_mib = CACHED.get(cell.trainer_size or 0, (5.0, PEAKS_MIB.get(cell.trainer, 0)))
        return make_cell_result(cell, step_time_s=time_s, peak_rss_bytes=int(peak_mib * MIB))


def names(cells: list[Cell]) -> list[str]:
    return [cell.cell_id.removeprefix("mini-256-real-cpu-b8-a1-") for cell in cells]


def test_fit_gets_the_peak_of_each_peer_in_whole_mebibytes() -> None:
    assert names(contenders(MINI_REAL, Measured(), quick=False)) == [
        "memory-efficient",
        "memory-efficient-fit4910MiB",
        "memory-efficient-fit3510MiB",
        "memory-efficient-fit1245MiB",
        "article-trainer",
        "SpladeLoss",
        "SpladePooling-chunked-32",
        "CachedSpladeLoss-1",
    ]


def test_each_size_and_the_budgets_between_run_once() -> None:
    measured = Measured()

    contenders(MINI_REAL, measured, quick=False)

    assert names(measured.cells) == [
        *("article-trainer", "SpladeLoss", "SpladePooling-chunked-32", "SpladePooling-chunked-128"),
        *(f"CachedSpladeLoss-{size}" for size in CACHED),
        "memory-efficient",
        *(f"memory-efficient-fit{budget_mib}MiB" for budget_mib in (862, 1376, 2198)),
    ]


def test_a_quick_comparison_scans_one_size_of_each_peer() -> None:
    measured = Measured()

    compared = contenders(MINI_REAL, measured, quick=True)

    assert names(measured.cells) == ["article-trainer", "SpladeLoss", "CachedSpladeLoss-1"]
    assert "SpladePooling-chunked" not in {cell.trainer for cell in compared}
    assert names([cell for cell in compared if cell.memory_budget_bytes]) == [
        "memory-efficient-fit3510MiB",
        "memory-efficient-fit1245MiB",
    ]


def test_every_comparison_has_cells_and_a_budget_for_its_peers() -> None:
    for comparison in COMPARISONS:
        compared = contenders(comparison, Measured(), quick=False)
        peers = {cell.trainer for cell in compared if cell.trainer != "splade-bench"}
        assert {cell.workload for cell in compared} == {comparison.workload}
        assert len(compared) == len(set(compared))
        assert sum(cell.memory_budget_bytes is not None for cell in compared) == len(peers - {"SpladePooling-chunked"})


def test_budgets_rise_by_one_ratio_and_leave_out_the_largest() -> None:
    assert budgets_between(1000 * MIB, 8000 * MIB) == [1000 * MIB, 2000 * MIB, 4000 * MIB]
