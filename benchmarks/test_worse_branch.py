"""The gate on a branch that takes more memory: what it prints, and what an intended change does to the baseline.

The branch is a copy of this project with one line changed: the gradients of the head are the same, but they go through
autograd, which makes a second tensor as large as the decoder's weight. The log is ``reports/worse-branch.log``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from difflib import unified_diff
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = ("splade_bench", "benchmarks", "conftest.py", "pyproject.toml", "reports/baselines")
CHANGED = "splade_bench/model/head.py"
LINE = "ctx.parameters = (weight, bias) if in_place_gradients else None"
WORSE_LINE = "ctx.parameters = None"
BASELINE = "reports/baselines/gate.json"
# Of tox -e gate.
SWEEP = ["benchmarks/test_training_cells.py", "--profile", "gate", "--memory-passes", "live"]
RULES = ["--memory-fail-on", "live_peak_bytes:1%", "--memory-fail-on", "final_loss:5%"]
# The cells whose modes sum gradients in place.
IN_PLACE = ("gate-cpu-b4-a2-memory-efficient-seed42", "gate-cpu-b4-a2-minimal-memory-seed42")


@pytest.fixture
def branch(tmp_path: Path) -> Path:
    folder = tmp_path / "branch"
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    code = (folder / CHANGED).read_text()
    assert code.count(LINE) == 1
    (folder / CHANGED).write_text(code.replace(LINE, WORSE_LINE))
    return folder


@pytest.mark.takes_long
@pytest.mark.part(minutes=3)
def test_a_branch_that_takes_more_memory_fails_and_is_accepted_on_wish(branch: Path, reports_folder: Path) -> None:
    failed = gate(branch, RULES)
    regressions = [line for line in failed.stdout.splitlines() if line.startswith("REGRESSION")]
    accepted = gate(branch, ["--resume", "--memory-update-baseline"])
    passed = gate(branch, ["--resume", *RULES])
    (reports_folder / "worse-branch.log").write_text(
        "\n".join(
            [
                "The change",
                *difference(branch, CHANGED),
                "",
                f"pytest {' '.join([*SWEEP, '--memory-baseline', BASELINE, *RULES])}: exit code {failed.returncode}",
                *verdict(failed.stdout),
                "",
                f"The baseline after the same with --memory-update-baseline: exit code {accepted.returncode}",
                *difference(branch, BASELINE),
                "",
                f"The gate again, with the new baseline: exit code {passed.returncode}",
                *verdict(passed.stdout),
            ]
        )
        + "\n"
    )

    assert [run.returncode for run in (failed, accepted, passed)] == [1, 0, 0]
    assert [line.split()[1:3] for line in regressions] == [[cell, "live_peak_bytes"] for cell in IN_PLACE]


def gate(branch: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The gate in the branch's folder, with the package of the branch."""
    places = ["--memory-baseline", BASELINE, "--memory-results", "gate.jsonl", "--reports", "pages"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *SWEEP, *places, *options],
        cwd=branch,
        env=os.environ | {"PYTHONPATH": str(branch)},
        capture_output=True,
        text=True,
    )


def verdict(output: str) -> list[str]:
    """From the heading "memory baseline" to the number of regressions, which ends a verdict."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if "= memory baseline =" in line)
    rest = lines[start + 1 :]
    return rest[: 1 + next(number for number, line in enumerate(rest) if line.startswith("regressions: "))]


def difference(branch: Path, name: str) -> list[str]:
    """What the branch changes in a file."""
    before, after = ((folder / name).read_text().splitlines() for folder in (ROOT, branch))
    return list(unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm=""))
