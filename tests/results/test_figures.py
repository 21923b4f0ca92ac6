"""The table of figures names fields of a record, and each figure reads what it says."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from results import MIB, make_call_result, make_cell_result

from splade_bench.bench.protocol import MEMORY_PASSES
from splade_bench.results.figures import (
    FIGURES,
    GATED,
    PROBES,
    RECORDED,
    added_bytes,
    peak_bytes,
    plannable_bytes,
)
from splade_bench.results.records import CellResult

FIELDS = {field.name for field in fields(CellResult)}


def test_every_recorded_figure_is_a_field_or_a_metric() -> None:
    assert {figure.name for figure in RECORDED} - FIELDS == {"mrr@10"}
    for figure in FIGURES.values():
        assert figure.runtime is None or figure.runtime in FIELDS
        assert figure.memory_pass is None or figure.memory_pass in MEMORY_PASSES


def test_every_peak_and_time_of_a_cell_is_in_the_table() -> None:
    peaks = {name for name in FIELDS if name.endswith("_peak_bytes") or name.endswith("peak_rss_bytes")}

    assert peaks <= FIGURES.keys()
    assert {"wall_time_s", "step_time_s", "final_loss", "validation_loss"} <= FIGURES.keys()


def test_a_figure_reads_a_field_a_metric_or_what_follows_from_them() -> None:
    result = make_cell_result(
        peak_rss_bytes=500 * MIB,
        baseline_rss_bytes=200 * MIB,
        metrics={"mrr@10": 0.3},
        queries_seen=30,
        wall_time_s=2.0,
    )

    assert FIGURES["peak_rss_bytes"](result) == 500 * MIB
    assert FIGURES["added_rss_bytes"](result) == FIGURES["peak_rss_bytes"].added(result) == 300 * MIB
    assert FIGURES["mrr@10"](result) == 0.3
    assert FIGURES["queries_per_s"](result) == 15.0


def test_memory_on_an_accelerator_is_that_of_the_device() -> None:
    on_cpu = make_cell_result(peak_rss_bytes=500 * MIB, baseline_rss_bytes=200 * MIB)
    on_cuda = replace(on_cpu, device_peak_allocated_bytes=70 * MIB, device_peak_reserved_bytes=90 * MIB, device="cuda")

    figures = (peak_bytes, added_bytes, plannable_bytes)
    assert [figure(on_cpu) for figure in figures] == [500 * MIB, 300 * MIB, 300 * MIB]
    assert [figure(on_cuda) for figure in figures] == [70 * MIB, 70 * MIB, 90 * MIB]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_was_not_measured_is_none(name: str) -> None:
    for result in (make_cell_result(), make_call_result()):
        assert FIGURES[name](result) is None
        assert FIGURES[name].added(result) is None


def test_a_figure_without_its_runtime_memory_is_not_added_memory() -> None:
    result = make_cell_result(pinned_peak_rss_bytes=5, live_peak_bytes=7)

    assert FIGURES["pinned_peak_rss_bytes"].added(result) is None
    assert FIGURES["live_peak_bytes"].added(result) == 7  # of tensors alone, so it has no runtime


def test_values_are_written_with_their_unit() -> None:
    assert FIGURES["live_peak_bytes"].text(3 * MIB) == "3 MiB"
    assert FIGURES["wall_time_s"].text(2.5) == "2.50 s"
    assert FIGURES["mrr@10"].text(0.25) == "0.2500"


def test_what_is_gated_is_recorded_and_only_metrics_grow_better() -> None:
    assert GATED.keys() <= {figure.name for figure in RECORDED}
    assert [name for name, figure in GATED.items() if not figure.larger_is_worse] == ["mrr@10"]


def test_probes_read_memory() -> None:
    assert {figure.unit for figure, _ in PROBES} == {"bytes"}
    assert len({probe.name for _, probe in PROBES}) == len(PROBES) == 5
