"""What a report is written as: Markdown, one HTML page, tables for programs, summaries for CI, other documents."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_results import HOSTILE, make_result, make_sweep
from results import make_call_result

from splade_bench.cli import main
from splade_bench.errors import DataError
from splade_bench.measure.timeline import Sample
from splade_bench.memory_modes import MEMORY_MODES, MEMORY_TECHNIQUES
from splade_bench.report.document import make_pages, write_report
from splade_bench.report.export import write_tables
from splade_bench.report.insertions import update_document
from splade_bench.report.markdown import markdown, page_markdown
from splade_bench.report.page import Page, Table, file_name
from splade_bench.report.summary import COMMENT_BYTES, summary
from splade_bench.report.sweep_plots import TradePoint, colours_of, markers_of, pareto_front, smoothed
from splade_bench.report.webpage import webpage
from splade_bench.results.records import CellResult, append_result

GOLDEN = Path(__file__).parent / "golden"


def hostile_results() -> list[CellResult]:
    """A sweep with a missing cell, a failed, a NaN and a hostile one, and one of another machine."""
    sweep = make_sweep()
    del sweep[1]
    failed = make_result("article", status="oom", error=HOSTILE, wall_time_s=None, seed=4, phase="forward")
    nan = make_result("standard", status="nan", error="loss is nan", final_loss=None, seed=5, losses=[1.0, None])
    hostile = make_result(HOSTILE, workload=HOSTILE, seed=6, cell_id=HOSTILE)
    elsewhere = make_result("memory-efficient", seed=1, machine={"processor": HOSTILE})
    return [*sweep, failed, nan, hostile, elsewhere]


def test_the_page_of_a_difficult_sweep_is_as_it_was_approved(tmp_path: Path) -> None:
    path, _ = write_report(hostile_results(), tmp_path)

    assert path.read_text(encoding="utf-8") == (GOLDEN / "TRADEOFFS.md").read_text(encoding="utf-8")


def test_what_is_hostile_stays_in_its_place(tmp_path: Path) -> None:
    results = hostile_results()
    page = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")]

    assert "<script>" not in page and "\x1b" not in page
    assert all(re.fullmatch(r"(plots/)?[\w.-]+", name) for name in files)
    assert len({line.count("|") - line.count("\\|") for line in page.splitlines() if line.startswith("| cpu")}) == 1


def test_a_name_stays_in_its_folder() -> None:
    assert "/" not in file_name("../../etc/passwd")
    assert not file_name("../x").startswith(".")


def test_the_same_results_give_the_same_bytes_as_html_too() -> None:
    first, second = (webpage(make_pages(make_sweep())) for _ in range(2))

    assert first == second


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_html_page_needs_nothing_from_elsewhere_and_runs_no_text_of_results() -> None:
    elements = Elements(webpage(make_pages(hostile_results())))

    assert len(elements.of("script")) == 1
    assert elements.of("link") == []
    assert elements.of("img")
    assert all((image["src"] or "").startswith("data:image/svg+xml;base64,") for image in elements.of("img"))
    assert all((anchor["href"] or "").startswith("#") for anchor in elements.of("a"))
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)


def test_every_row_of_a_cell_links_to_the_command_that_measures_it() -> None:
    text = webpage(make_pages(make_sweep()))
    elements = Elements(text)
    targets = {attributes["id"] for attributes in elements.of("li") if "id" in attributes}
    links = [anchor["href"] for anchor in elements.of("a") if (anchor["href"] or "").startswith("#command-")]

    assert len(links) == 6
    assert {str(link)[1:] for link in links} == targets
    assert "--memory-modes memory-efficient --seeds 1" in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_sorts_and_filters_the_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    script = """
      const table = document.getElementById("TRADEOFFS/cells-tiny");
      const column = [...table.querySelectorAll("th")].findIndex((h) => h.textContent === "time, s");
      table.querySelectorAll("th")[column].click();
      const times = [...table.querySelectorAll("tbody tr")].map((r) => parseFloat(r.cells[column].textContent));
      const input = table.querySelector("input");
      input.value = "memory-efficient"; input.dispatchEvent(new Event("input"));
      const shown = [...table.querySelectorAll("tbody tr")].filter((r) => !r.hidden).length;
      document.title = JSON.stringify({ sorted: times.every((t, i) => !i || times[i - 1] <= t), shown });
    """
    page.write_text(webpage(make_pages(make_sweep())).replace("</script>", script + "</script>"), encoding="utf-8")

    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    assert '<title>{"sorted":true,"shown":2}</title>' in dom


def test_each_table_is_a_csv_file_and_part_of_one_json(tmp_path: Path) -> None:
    pages = make_pages(hostile_results())

    written = write_tables(pages, tmp_path)

    record = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert set(record) == {"TRADEOFFS"}
    assert len(written) == 1 + len(record["TRADEOFFS"])
    rows = list(csv.reader(io.StringIO((tmp_path / "TRADEOFFS" / "cells-tiny.csv").read_text(encoding="utf-8"))))
    assert rows[0] == record["TRADEOFFS"]["cells-tiny"]["headings"]
    assert len({len(row) for row in rows}) == 1
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) for path in written)


def test_a_spreadsheet_takes_no_cell_for_a_formula_and_keeps_signed_figures(tmp_path: Path) -> None:
    table = Table(name="t", headings=["a"], rows=[["=1+1"], ["+0.010 (-0.020 to +0.030)"], ["-1+cmd"], ["@x"]])

    write_tables([Page("P", [table])], tmp_path)

    assert (tmp_path / "P" / "t.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        *["'=1+1", "+0.010 (-0.020 to +0.030)", "'-1+cmd", "'@x"]
    ]


def test_the_summary_begins_with_what_failed_and_keeps_within_its_limit() -> None:
    results = [make_result(seed=seed, added_mib=seed) for seed in range(1, 2000)]
    failed = make_result(seed=5000, added_mib=1, status="oom", error=HOSTILE)

    text = summary([*results, failed], make_pages(results[:1]), limit_bytes=COMMENT_BYTES)

    rows = [line for line in text.splitlines() if line.startswith("| tiny")]
    assert "| 5000 " in rows[0] and "oom" in rows[0]
    assert "| 1999 " in rows[1]
    assert len(text.encode()) <= COMMENT_BYTES
    left = re.search(r"and (\d+) more rows", text)
    assert left and int(left[1]) + len(rows) == 2000
    assert "<script>" not in text


def test_a_peer_is_not_taken_for_the_standard_mode() -> None:
    peer = make_result("standard", trainer="SpladeLoss")

    assert "**memory-efficient**" not in summary([make_result("memory-efficient"), peer], [], limit_bytes=COMMENT_BYTES)


def test_a_summary_with_room_for_all_says_nothing_of_more() -> None:
    text = summary(make_sweep(), make_pages(make_sweep()), limit_bytes=COMMENT_BYTES)

    assert "more rows" not in text
    assert text.count("| tiny-cpu") == 18
    assert "**memory-efficient**" in text


def test_marked_places_of_a_document_are_filled_and_stay_filled(tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    opening, closing = "<!-- splade-bench table: TRADEOFFS/claims -->", "<!-- /splade-bench table -->"
    other = "<!-- splade-bench table: PEERS/promises -->"
    document.write_text(f"before\n\n{opening}\nold\n{closing}\n\n{other}\nkept\n{closing}\nafter\n", encoding="utf-8")
    pages = make_pages(make_sweep())

    assert update_document(document, pages)
    text = document.read_text(encoding="utf-8")

    (claims,) = (table for page in pages for table in page.tables if table.name == "claims")
    assert f"{opening}\n\n{markdown(claims.headings, claims.rows)}\n\n{closing}" in text and "\nold\n" not in text
    assert text.startswith("before\n") and text.endswith(f"{other}\nkept\n{closing}\nafter\n")
    assert not update_document(document, pages)


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_case_R5_a_document_keeps_its_line_endings(tmp_path: Path, ending: str) -> None:
    document = tmp_path / "guide.md"
    place = "<!-- splade-bench table: TRADEOFFS/claims -->\n<!-- /splade-bench table -->"
    document.write_bytes(f"# Ä\n\n{place}\nafter\n".replace("\n", ending).encode())

    assert update_document(document, make_pages(make_sweep()))

    written = document.read_bytes()
    assert written.count(b"\n") > 10
    assert written.count(b"\r") == (written.count(b"\n") if ending == "\r\n" else 0)
    assert not update_document(document, make_pages(make_sweep()))


def test_case_R5_text_around_a_table_is_not_touched(tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    place = b"<!-- splade-bench table: TRADEOFFS/claims -->\n<!-- /splade-bench table -->"
    document.write_bytes(b"\xef\xbb\xbfdos\r\nunix\n" + place + b"\r\nlast, without an end")

    update_document(document, make_pages(make_sweep()))

    written = document.read_bytes()
    assert written.startswith(b"\xef\xbb\xbfdos\r\nunix\n<!--")
    assert written.endswith(b"table -->\r\nlast, without an end")
    assert written.count(b"\r") == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "x\n<!-- splade-bench table: TRADEOFFS/claims -->\n",
            r"guide\.md:2: the table .*claims is not closed",
        ),
        (
            "<!-- splade-bench table: TRADEOFFS/nothing -->\n<!-- /splade-bench table -->",
            r"guide\.md:1: the page TRADEOFFS has no table nothing; it has .*claims",
        ),
    ],
)
def test_a_place_that_cannot_be_filled_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    document = tmp_path / "guide.md"
    document.write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=complaint):
        update_document(document, make_pages(make_sweep()))
    assert document.read_text(encoding="utf-8") == text


def test_the_command_writes_all_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    for result in make_sweep():
        append_result(results, result)
    names = ("tables", "results.csv", "summary.md", "comment.md")
    tables, table, step_summary, comment = (tmp_path / name for name in names)
    step_summary.write_text("another step's\n", encoding="utf-8")

    code = main(
        [
            *["report", "--results", str(results), "--output", str(tmp_path / "out")],
            *["--tables", str(tables), "--csv", str(table)],
            *["--github-summary", str(step_summary), "--comment", str(comment), "--json"],
        ]
    )

    assert code == 0
    assert len(json.loads(capsys.readouterr().out)["reports"]) > len(names)
    assert all(path.exists() for path in (tmp_path / "out" / "report.html", tables / "tables.json", table, comment))
    assert step_summary.read_text(encoding="utf-8").startswith("another step's\n## splade-bench")


def test_files_and_folders_of_results_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    for number, result in enumerate(make_sweep([1])):
        append_result(folder / f"{number}.jsonl" if number else tmp_path / "single.jsonl", result)

    code = main(
        [
            *["report", "--results", str(tmp_path / "single.jsonl"), "--results", str(folder), "--json"],
            *["--output", str(tmp_path / "out")],
        ]
    )

    assert code == 0
    assert json.loads(capsys.readouterr().out)["cells"] == 6


def test_a_folder_without_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert f"--results {tmp_path}: the folder has no *.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--csv", "--github-summary", "--comment"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    append_result(results, make_result())

    code = main(
        ["report", "--results", str(results), "--output", str(tmp_path), flag, str(tmp_path / "no" / "such" / "file")]
    )

    assert code == 2
    assert f"{flag} " in capsys.readouterr().err


def test_no_point_of_the_front_is_beaten_in_both() -> None:
    points = [
        TradePoint(mode="m", label=label, time_s=time_s, added_bytes=added)
        for label, time_s, added in (("a", 1, 9), ("b", 2, 9), ("c", 2, 5), ("d", 3, 7), ("e", 4, 1), ("f", 1, 9.5))
    ]

    assert [point.label for point in pareto_front(points)] == ["a", "c", "e"]


def test_a_mode_has_the_same_colour_in_every_picture() -> None:
    few, many = colours_of(["minimal-memory", "x"]), colours_of(["standard", "minimal-memory", "standard+y", "x"])

    assert few["minimal-memory"] == many["minimal-memory"]
    assert len(set(many.values())) == 4


def test_no_two_modes_look_alike_where_colours_run_out() -> None:
    modes = [*MEMORY_MODES, *(f"standard+{technique}" for technique in list(MEMORY_TECHNIQUES)[:8])]
    colours, markers = colours_of(modes), markers_of(modes)

    assert len({(colours[mode], markers[mode]) for mode in modes}) == len(modes)


def test_a_smoothed_series_keeps_its_mean_and_its_order() -> None:
    places, means = smoothed([float(number) for number in range(100)], pieces=10)

    assert places == pytest.approx([0.05 + number / 10 for number in range(10)])
    assert means == pytest.approx([4.5 + 10 * number for number in range(10)])
    assert smoothed([3.0]) == ([0.5], [3.0])


def test_pictures_are_drawn_of_what_was_recorded() -> None:
    timeline = [
        {"time_s": number / 10, "rss_bytes": (400 + 10 * number) * 2**20, "phase": "forward"} for number in range(5)
    ]
    assert Sample(**timeline[0]).phase == "forward"
    sweep = [replace(result, memory_timeline=timeline) if result.seed == 1 else result for result in make_sweep()]

    (page,) = make_pages(sweep)

    assert [picture.name for picture in page.pictures] == [
        *["memory-against-time-tiny", "timelines-tiny", "learning-tiny"]
    ]


def test_the_functions_of_a_foreign_project_have_a_page_the_largest_first() -> None:
    calls = [
        make_call_result(name, wall_time_s=1.0, baseline_rss_bytes=30 * 2**20, peak_rss_bytes=peak_mib * 2**20)
        for name, peak_mib in (("tests/test_x.py::test_small: f", 40), ("tests/test_x.py::test_large: f", 400))
    ]
    failed = make_call_result(calls[0].name, status="oom", error=HOSTILE)

    (page,) = make_pages([*calls, failed])

    (_, table) = page.tables
    assert page.name == "CALLS"
    assert [row[0] for row in table.rows] == [calls[1].name, calls[0].name]
    assert table.rows[1][1:5] == ["1 ok, 1 oom", "1.00", "40.0", "10.0"]
    assert table.rows[0][3:5] == ["400", "370"]
    assert "<script>" not in page_markdown(page) and "oom" in page_markdown(page)
