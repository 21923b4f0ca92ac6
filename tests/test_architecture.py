"""The import table of ARCHITECTURE.md, held against the imports that are there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "splade_bench"
_ROW = re.compile(r"^\| `(?P<module>[\w.]+)` \| (?P<allowed>[^|]*) \| (?P<torch>yes|no) \|", re.MULTILINE)


def table() -> dict[str, tuple[set[str], bool]]:
    """Module or package -> what it may import from this package, and whether importing it may import torch."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return {
        row["module"]: (set(re.findall(r"`([\w.]+)`", row["allowed"])), row["torch"] == "yes")
        for row in _ROW.finditer(text)
    }


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports_of(path: Path) -> set[str]:
    """Names below ``splade_bench`` that a file imports anywhere, those for type checkers included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("splade_bench."):
            found.add(node.module.removeprefix("splade_bench."))
        elif isinstance(node, ast.ImportFrom) and node.module == "splade_bench":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(
                alias.name.removeprefix("splade_bench.")
                for alias in node.names
                if alias.name.startswith("splade_bench.")
            )
    return found


def row_of(module: str, rows: dict[str, tuple[set[str], bool]]) -> str:
    """The table's row for a module: its own, or its package's."""
    return module if module in rows else module.split(".")[0]


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    rows = table()
    names = {name for name, _ in modules() if name not in ("", "__main__")}

    assert len(rows) > 10
    assert {row_of(name, rows) for name in names} == set(rows)


@pytest.mark.parametrize(("module", "path"), [pair for pair in modules() if pair[0] not in ("", "__main__")])
def test_a_module_imports_only_what_the_table_allows(module: str, path: Path) -> None:
    rows = table()
    own = row_of(module, rows)
    allowed = rows[own][0]

    for imported in imports_of(path):
        name = row_of(imported, rows)
        assert name == own or name in allowed, f"{module} imports {imported}"


def test_arrows_never_turn_back() -> None:
    """The rows stand in an order in which each imports only from rows above it."""
    rows = table()
    above: set[str] = set()
    for name, (allowed, _) in rows.items():
        assert allowed <= above, f"{name} may import what stands below it"
        above.add(name)


def test_modules_without_torch_leave_it_out() -> None:
    rows = table()
    names = [name for name, _ in modules() if name not in ("", "__main__") and not rows[row_of(name, rows)][1]]
    script = "import importlib, sys\n" + "".join(f"importlib.import_module('splade_bench.{name}')\n" for name in names)
    script += "print([name for name in ('torch', 'transformers') if name in sys.modules])"

    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert finished.stdout.strip() == "[]"
    assert {"results", "report.document", "pytest_sweep", "bench.run"} <= set(names)


def test_no_pickle_in_the_package() -> None:
    forbidden = re.compile(r"\b(torch\.(load|save)|pickle|joblib|allow_pickle|trust_remote_code=True)\b")

    assert [path.name for _, path in modules() if forbidden.search(path.read_text(encoding="utf-8"))] == []
