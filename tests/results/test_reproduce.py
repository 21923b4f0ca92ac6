"""The command that measures a cell again names each of its axes."""

from __future__ import annotations

from results import make_cell_result

from splade_bench.results.reproduce import gate_name, reproduce

TEST = "benchmarks/test_training_cells.py::test_training_cell[x]"


def test_several_processes_are_in_the_command_and_in_the_name() -> None:
    alone, together = make_cell_result(test_id=TEST), make_cell_result(test_id=TEST, processes=2)

    assert "--processes" not in reproduce(alone)
    assert " --processes 2" in reproduce(together)
    assert gate_name(together) == "tiny-cpu-b8-a1-standard-processes2-seed42" != gate_name(alone)
