"""Values that a results file may have and nobody expects do not keep its page from being written."""

from __future__ import annotations

from pathlib import Path

import pytest
from results import make_call_result

from splade_bench.report.document import make_pages, write_report
from splade_bench.report.export import write_tables
from splade_bench.report.page import Table
from splade_bench.report.provenance import measured_on


@pytest.mark.parametrize("name", ["threads", "device", "processor", "memory_bytes"])
def test_a_machine_with_an_odd_value_is_shown(name: str, tmp_path: Path) -> None:
    paths = write_report([make_call_result(machine={name: [5]}), make_call_result(machine={name: "x"})], tmp_path)

    assert paths[0].read_text(encoding="utf-8").endswith("\n")


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    results = [make_call_result("a\ud800b")]

    paths = [*write_report(results, tmp_path), *write_tables(make_pages(results), tmp_path / "tables")]

    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    assert all("\\ud800" in texts[name] for name in ("CALLS.md", "report.html", "calls.csv"))


def test_numbers_of_threads_are_in_order() -> None:
    table, *_ = measured_on([make_call_result(machine={"threads": threads}) for threads in (16, 2, 4)])

    assert isinstance(table, Table)
    assert ["threads", "2, 4, 16"] in table.rows
