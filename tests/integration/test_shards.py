"""A sweep in shards: the recipes of ``benchmarks/README.md``, with processes here in the place of machines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.report.document import make_pages
from splade_bench.results.records import CellResult, read_results

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("## On many machines")[2]
# Small cells, in place of those of the recipe's profile.
AXES = [
    *["--workload", "head", "--max-steps", "1", "--memory-passes", "none", "--batch-sizes", "1,2"],
    *["--gradient-accumulation-steps", "1", "--memory-modes", "memory-efficient", "--seeds", "3", "--rounds", "1"],
]
SWEEP = "benchmarks/test_training_cells.py"


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    command = ("-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "--collect-only")
    finished = pytester.runpytest_inprocess(*command, "-q", str(ROOT / "benchmarks"), *arguments)
    assert finished.ret == 0, finished.stdout.str()
    return [line for line in finished.outlines if "::" in line]


def test_each_test_is_in_one_shard_and_what_is_compared_in_the_same(pytester: pytest.Pytester) -> None:
    arguments = ("--profile", "full", "--rounds", "2")
    whole = collected(pytester, *arguments)

    shards = [collected(pytester, *arguments, "--shard", f"{number}/3") for number in (1, 2, 3)]

    assert sorted(test for shard in shards for test in shard) == sorted(whole)
    for together in (
        "b8-a4-.*-seed2-round1",
        r"technique_saves_and_costs\[.*-2\]",
        "ranks_like|do_to_training",
        "test_head",
    ):
        assert sum(any(re.search(together, test) for test in shard) for shard in shards) == 1, together
    assert all(len(shard) > len(whole) / 10 for shard in shards)


def test_another_selection_and_order_is_shared_out_in_the_same_way(pytester: pytest.Pytester) -> None:
    one_way = collected(pytester, "-k", "training_cell and b4", "--seeds", "1,2", "--shard", "2/2")
    other_way = collected(pytester, "-k", "b4 and training_cell", "--seeds", "2,1", "--shard", "2/2")

    assert sorted(one_way) == sorted(other_way)
    assert len(one_way) == 4


def in_processes(commands: Sequence[str], environments: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Run each command in a shell of its own, all at the same time, in a checkout in ``folder``."""
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    common = {"PYTEST_ADDOPTS": " ".join(AXES)}
    running = [
        subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, **common, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), outputs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sequence[CellResult]:
    folder = tmp_path_factory.mktemp("whole")
    in_processes([f"pytest {SWEEP} --memory-results whole.jsonl --reports pages"], [{}], folder)
    return cells(folder / "whole.jsonl")


def cells(path: Path) -> list[CellResult]:
    return [result for result in read_results([path]) if isinstance(result, CellResult)]


def require_same(merged: Path, whole: Sequence[CellResult]) -> None:
    """The cells of the whole, each once and with its losses, and the page of the whole but for memory and time."""
    found = cells(merged)

    assert sorted(str(result.shard) for result in found) == ["1/2", "2/2"]
    assert {result.cell_id: result.losses for result in found} == {cell.cell_id: cell.losses for cell in whole}
    assert main(["report", "--results", str(merged), "--output", str(merged.parent / "report")]) == 0
    assert "1/2, 2/2" in (merged.parent / "report" / "TRADEOFFS.md").read_text(encoding="utf-8")
    assert rows_on_page(found) == rows_on_page(whole)


def rows_on_page(results: Sequence[CellResult]) -> list[dict[str, str]]:
    (page,) = make_pages(results)
    (table,) = (table for table in page.tables if table.name == "cells-head")
    measured = re.compile("time|memory|RSS|queries|company")
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert len(rows) == 2
    return [{name: text for name, text in row.items() if not measured.search(name)} for row in rows]


def test_the_recipe_for_slurm(tmp_path: Path, whole: Sequence[CellResult]) -> None:
    job, merge = re.findall(r"^```bash\n(.*?)^```$", RECIPES, re.DOTALL | re.MULTILINE)[:2]
    assert "#SBATCH --array=1-4" in job
    tasks = [{"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"} for number in ("1", "2")]

    in_processes([job] * 2, tasks, tmp_path)
    subprocess.run(["bash", "-c", merge.splitlines()[0]], cwd=tmp_path, check=True)

    require_same(tmp_path / "sweep.jsonl", whole)
    # A shard that is started again finds its results, and so does one that has the merged file.
    resume = [job.replace("shard-$SLURM_ARRAY_TASK_ID.jsonl", "sweep.jsonl"), job]
    before = (tmp_path / "sweep.jsonl").read_text()
    again = tmp_path / "again"
    again.mkdir()
    for name in ("sweep.jsonl", "shard-2.jsonl"):
        (again / name).write_text((tmp_path / name).read_text())
    in_processes(resume, tasks, again)
    assert (again / "sweep.jsonl").read_text() == before


def test_the_recipe_for_a_matrix_of_jobs(tmp_path: Path, whole: Sequence[CellResult]) -> None:
    (workflow,) = re.findall(r"^```yaml\n(.*?)^```$", RECIPES, re.DOTALL | re.MULTILINE)[:1]
    steps = [line.partition("- run: ")[2] for line in workflow.splitlines() if "- run: " in line]
    (measure,) = (step for step in steps if step.startswith("pytest benchmarks "))
    (merge,) = (step for step in steps if step.startswith("cat "))
    jobs = [
        measure.replace("pytest benchmarks ", f"pytest {SWEEP} ")
        .replace("${{ matrix.shard }}", number)
        .replace("${{ strategy.job-total }}", "2")
        .replace("--reports pages", f"--reports pages-{number}")  # jobs on one machine
        for number in ("1", "2")
    ]
    assert not any("${{" in job for job in jobs)

    in_processes(jobs, [{}, {}], tmp_path)
    subprocess.run(["bash", "-c", merge], cwd=tmp_path, check=True)

    require_same(tmp_path / "sweep.jsonl", whole)
