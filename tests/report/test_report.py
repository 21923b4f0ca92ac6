"""What the report's pages say of a sweep, and what they refuse to compare."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_results import MACHINE, make_result, make_sweep, row_of, rows_of, text_of
from results import MIB, make_cell_result

from splade_bench.errors import DataError
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.machine import source_tree
from splade_bench.measure.timeline import Sample, Timeline
from splade_bench.report import provenance
from splade_bench.report.cells import cell_table, grid_points
from splade_bench.report.document import make_pages, write_report
from splade_bench.report.formatting import MISSING
from splade_bench.report.markdown import escape, markdown, page_markdown
from splade_bench.report.mode_overview import advice
from splade_bench.report.modes import compare_modes, ratios
from splade_bench.report.page import Page, Text
from splade_bench.report.plots import plot_timeline, plot_timelines, step_at_peak, thinned
from splade_bench.report.provenance import changed_since, measured_on
from splade_bench.report.tradeoffs import tradeoffs_page
from splade_bench.results.conditions import newest_comparable
from splade_bench.results.figures import added_bytes, peak_rss_bytes, wall_time_s
from splade_bench.results.records import CellResult, append_result, read_results


@pytest.fixture
def results() -> list[CellResult]:
    return [
        make_result("standard", added_mib=400, wall_time_s=20.0),
        make_result("memory-efficient", added_mib=100, wall_time_s=5.0),
        make_result("standard", added_mib=600, wall_time_s=30.0, seed=2),
        make_result("memory-efficient", added_mib=90, wall_time_s=6.0, seed=2),
    ]


def test_modes_are_compared_pair_by_pair(results: list[CellResult]) -> None:
    standard, efficient = compare_modes(results)

    assert standard.memory_mode == "standard"
    assert ratios(standard.pairs, wall_time_s) == [1.0, 1.0]
    assert ratios(efficient.pairs, wall_time_s) == [0.25, 0.2]
    assert ratios(efficient.pairs, added_bytes) == [0.25, 0.15]
    assert ratios(efficient.pairs, peak_rss_bytes) == [500 / 800, 490 / 1000]


def test_a_cell_without_its_partner_or_its_figures_is_not_averaged_in(results: list[CellResult]) -> None:
    alone = make_result("memory-efficient", added_mib=1, wall_time_s=1.0, seed=3)
    failed = make_result("standard", added_mib=1, wall_time_s=1.0, seed=3, status="oom")

    assert len(compare_modes([*results, alone, failed])[1].pairs) == 2


@pytest.mark.parametrize("changes", [{"source_tree": "other"}, {"machine": {"processor": "Other"}}])
def test_cells_of_another_machine_or_source_tree_are_no_partners(
    results: list[CellResult], changes: dict[str, Any]
) -> None:
    standard = [replace(result, **changes) if result.memory_mode == "standard" else result for result in results]

    assert [comparison.memory_mode for comparison in compare_modes(standard)] == ["standard"]


def test_runs_of_another_machine_or_tree_are_not_put_into_one_figure() -> None:
    newest = [
        make_result("standard", added_mib=1, wall_time_s=1.0, started_at=f"2026-02-0{n}", round=n) for n in (1, 2)
    ]
    first = replace(newest[0], started_at="2026-01-01", round=0)
    died = replace(first, status="killed", machine={name: MACHINE[name] for name in MACHINE if name != "threads"})
    unlike = [
        replace(first, machine=MACHINE | {"processor": "Other"}),
        replace(first, machine=MACHINE | {"threads": 1}),
        replace(first, source_tree="other"),
    ]

    def kept(results: list[CellResult]) -> list[CellResult]:
        return newest_comparable(results, key=lambda result: result.cell_id, run=lambda result: result)

    assert kept([*unlike, died, first, *newest]) == [died, first, *newest]
    died_last = replace(died, started_at="2026-03-02")
    between = replace(unlike[2], started_at="2026-03-01")
    assert kept([*unlike, *newest, between, died_last]) == [*newest, died_last], "it says less, and no other"
    other = replace(unlike[0], cell_id="another cell")
    assert kept([other, *newest]) == [other, *newest]


def test_the_page_holds_every_cell_and_the_comparison(results: list[CellResult], tmp_path: Path) -> None:
    write_report(results, tmp_path)
    page = tradeoffs_page(results)

    row = row_of(page, "cells-tiny", mode="standard")
    assert (row["batch"], row["accumulation"], row["runs"]) == ("16", "1", "2 ok")
    assert row["MRR@10"] == "0.200 → 0.300"
    assert (
        "**memory-efficient** takes 0.20 (0.15 to 0.25) times the added memory and 0.23 (0.20 to 0.25) times the time"
    ) in text_of(page)
    assert (tmp_path / "plots" / "memory-against-time-tiny.svg").is_file()


def test_the_same_results_give_the_same_bytes(results: list[CellResult], tmp_path: Path) -> None:
    first, second = (write_report(results, tmp_path / name)[0].parent for name in ("a", "b"))

    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


def test_a_failed_cell_is_a_row_with_its_reason(results: list[CellResult]) -> None:
    failed = make_result("article", added_mib=1, wall_time_s=1.0, status="oom", error="no | memory")

    page = tradeoffs_page([*results, failed])

    assert row_of(page, "cells-tiny", mode="article")["runs"] == "1 oom"
    assert r"Failed:" in text_of(page)
    assert r"- tiny-cpu-b16-a1-article: oom: no \| memory" in text_of(page)


def test_what_was_not_measured_is_a_dash_and_never_a_zero() -> None:
    (row,) = cell_table(grid_points([make_cell_result(status="killed", batch_size=1)]), name="cells").rows

    assert row.count(MISSING) >= 7
    assert not any(cell.startswith("0") for cell in row)


def test_results_of_different_corpora_are_refused(results: list[CellResult], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 different corpora"):
        write_report([*results, replace(results[0], corpus_sha256="d" * 64)], tmp_path)


def test_results_of_different_machines_are_flagged(results: list[CellResult]) -> None:
    other = replace(results[0], machine=MACHINE | {"processor": "Other"})

    assert "more than one machine: do not compare their times" in text_of(tradeoffs_page([*results, other]))
    assert "do not compare their times" not in text_of(tradeoffs_page(results))


@pytest.mark.parametrize(("threads", "flagged"), [(1, True), (2, False), (None, False)])
def test_another_number_of_threads_is_flagged_and_none_is_not(
    threads: int | None, flagged: bool, results: list[CellResult]
) -> None:
    other = replace(results[0], machine=MACHINE | {"threads": threads})

    page = tradeoffs_page([*results, other])

    assert ("different numbers of threads: do not compare their times" in text_of(page)) == flagged


@pytest.mark.parametrize(
    ("trees", "changed"),
    [
        (["old", "older"], "the code has changed since 2 of 2 results were measured"),
        (["old", "current"], "the code has changed since 1 of 2 results were measured"),
        (["current"], None),
        ([None], None),
    ],
)
def test_results_of_other_code_are_counted(trees: list[str | None], changed: str | None) -> None:
    trees = [source_tree() if tree == "current" else tree for tree in trees]

    assert changed_since([make_cell_result(source_tree=tree) for tree in trees]) == changed


def test_a_page_does_not_depend_on_the_code_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [make_cell_result(source_tree=tree) for tree in ("a", "b")]
    page = text_of(Page("", measured_on(results)))
    monkeypatch.setattr(provenance, "source_tree", lambda: "a")

    assert text_of(Page("", measured_on(results))) == page


def test_a_workload_is_shown_on_the_page_that_its_row_names() -> None:
    for name, workload in WORKLOADS.items():
        (page,) = make_pages([make_result(workload=name)])
        assert page.name == workload.page, name


def test_no_results_are_refused_with_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pytest benchmarks"):
        write_report([], tmp_path)


def test_hostile_text_cannot_leave_its_cell() -> None:
    hostile = "a|b`c`<script>\n\x1b[31mred*_[x](y)"

    escaped = escape(hostile)

    assert "\n" not in escaped and "\x1b" not in escaped and "<" not in escaped
    assert markdown(["x"], [[hostile]]).count("\n") == 2
    assert re.search(r"(?<!\\)\|", escaped) is None


def test_a_device_that_this_project_never_measured_is_marked() -> None:
    on_mps, on_cuda = (Page("", measured_on([make_cell_result(device=device)])) for device in ("mps", "cuda"))

    assert row_of(on_mps, "conditions", **{"measured on": "device"})[""] == "mps: untested on hardware by this project"
    assert "device" not in [row["measured on"] for row in rows_of(on_cuda, "conditions")]


def test_a_page_says_from_which_shards_and_machines_its_results_come() -> None:
    results = [make_result(shard=f"{number}/12", machine=MACHINE | {"boot": str(number)}) for number in (10, 2)]

    page = Page("", measured_on(results))
    alone = Page("", measured_on([replace(result, machine=MACHINE | {"boot": "x"}) for result in results]))

    assert row_of(page, "conditions", **{"measured on": "shards"})[""] == "2/12, 10/12"
    assert "(2 such machines, or starts of one)" in row_of(page, "conditions", **{"measured on": "machine"})[""]
    assert "several machines of one kind: compare their times with care" in text_of(page)
    assert "machines" not in text_of(alone) + row_of(alone, "conditions", **{"measured on": "machine"})[""]


def test_the_pages_of_two_shards_are_those_of_the_whole(tmp_path: Path) -> None:
    whole = make_sweep()
    shards = [[result for result in whole if result.batch_size == size] for size in (16, 4)]
    for number, shard in enumerate(shards, 1):
        for result in shard:
            append_result(tmp_path / "merged.jsonl", replace(result, shard=f"{number}/2", session=str(number)))

    pages = [page_markdown(page) for page in make_pages(read_results([tmp_path / "merged.jsonl"]))]

    assert [re.sub(r"\| shards +\|.*\n", "", page) for page in pages] == [
        page_markdown(page) for page in make_pages([result for shard in shards for result in shard])
    ]
    assert "1/2, 2/2" in pages[0]


def test_a_page_says_which_accelerator_it_was_measured_on() -> None:
    on_card, on_cpu = (
        Page("", measured_on([make_cell_result(machine={"device": device})])) for device in ("NVIDIA H100", "cpu")
    )

    assert row_of(on_card, "conditions", **{"measured on": "accelerator"})[""] == "NVIDIA H100"
    assert "accelerator" not in [row["measured on"] for row in rows_of(on_cpu, "conditions")]


def make_timeline(phases: str) -> Timeline:
    """One sample a letter: f(orward), b(ackward), o(ptimizer step); memory as the letter's place in its step."""
    names = {"s": "setup", "d": "batching", "f": "forward", "b": "backward", "o": "optimizer_step"}
    heights = {"s": 100, "d": 100, "f": 300, "b": 400, "o": 350}
    return Timeline(
        samples=[
            Sample(number * 0.1, heights[letter] * MIB + number, names[letter]) for number, letter in enumerate(phases)
        ]
    )


def test_a_timeline_is_drawn_with_its_phases(tmp_path: Path) -> None:
    plot_timeline(make_timeline("ssffbbofbo"), tmp_path / "timeline.svg")

    drawing = (tmp_path / "timeline.svg").read_text(encoding="utf-8")
    for phase in ("forward", "backward", "optimizer step"):
        assert phase in drawing


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("ssffbbofbo", "fbo"),
        ("ssfbodfbod", "fbod"),  # d: the batches of the next step are made
        ("ssffbbofo", "ffbbo"),
        ("fbfbofo", "fbfbo"),  # accumulation: two batches are one optimizer step
        ("s", "s"),
        ("", ""),
    ],
)
def test_the_step_that_holds_the_peak_is_shown_whole(phases: str, expected: str) -> None:
    shown = step_at_peak(make_timeline(phases).samples)

    assert "".join(sample.phase[0] for sample in shown) == expected.replace("d", "b")


def test_an_empty_timeline_is_drawn_too(tmp_path: Path) -> None:
    plot_timeline(Timeline(), tmp_path / "timeline.svg")

    assert (tmp_path / "timeline.svg").is_file()


def test_a_long_timeline_keeps_its_peaks_in_a_small_picture(tmp_path: Path) -> None:
    letters = "f" * 40 + "b" * 40 + "o" * 15 + "d" * 5
    samples = [
        replace(sample, rss_bytes=sample.rss_bytes + number * 7919 % (50 * MIB))
        for number, sample in enumerate(make_timeline(letters * 1000).samples)
    ]

    kept = thinned(samples, 400)

    highest, highest_kept = (
        {sample.phase: sample.rss_bytes for sample in sorted(some, key=lambda sample: sample.rss_bytes)}
        for some in (samples, kept)
    )
    assert (len(samples), len(highest), highest_kept) == (100_000, 4, highest)
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])
    plot_timelines(dict.fromkeys(("one mode", "another"), samples), tmp_path / "timelines.svg")
    assert (tmp_path / "timelines.svg").stat().st_size < 200_000


def test_a_legend_has_no_phase_that_nobody_can_see(tmp_path: Path) -> None:
    plot_timelines({"standard": make_timeline("s" + "f" * 600 + "o" * 100).samples}, tmp_path / "timelines.svg")

    drawing = (tmp_path / "timelines.svg").read_text(encoding="utf-8")
    assert "forward" in drawing and "optimizer step" in drawing
    assert "setup" not in drawing


def test_small_models_come_first_and_unknown_workloads_last(results: list[CellResult]) -> None:
    workloads = ["unheard-of", "head", "base", "tiny"]
    page = tradeoffs_page([replace(result, workload=workload) for workload in workloads for result in results])

    titles = [block.markdown for block in page.blocks if isinstance(block, Text)]
    shown = [title.removeprefix("## Workload ") for title in titles if title.startswith("## Workload ")]
    assert shown == ["`tiny`", "`base`", "`head`", "`unheard-of`"]


@pytest.mark.parametrize(
    ("metrics", "quality"),
    [({"mrr@10": 0.3}, "lost at most 0.01 in MRR@10"), ({}, "MRR@10 was not measured")],
)
def test_advice_speaks_of_quality_only_where_it_was_measured(
    metrics: dict[str, float], quality: str, results: list[CellResult]
) -> None:
    notes = advice([replace(result, metrics=metrics) for result in results])[-1]

    assert isinstance(notes, Text)
    assert notes.markdown.endswith(f"and {quality}.")
