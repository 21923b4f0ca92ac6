"""The table of real reports names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "reports/CASES.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| case", "| ---"))
]
CASES = {*map(str, range(1, 24)), "R1", "R2", "R3", "R4", "R5"} - {"6", "14", "16", "21"}  # there are no such reports


def test_every_case_has_a_row() -> None:
    named = [row[0] for row in ROWS]

    assert CASES - set(named) == set()
    assert len([name for name in named if name != "–"]) == len({name for name in named if name != "–"})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1][:30]}")
def test_each_row_names_tests_that_exist(row: list[str]) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])

    assert len(row) == 4
    assert tests, row
    assert row[-1].count("::") == len(tests)
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_case_R1_the_floor_of_pytest_benchmark() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (floor,) = re.findall(r'"pytest-benchmark>=([\d.]+)"', text)

    assert tuple(map(int, floor.split("."))) >= (5, 3, 1)
