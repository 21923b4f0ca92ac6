"""The flags of long trainings, each with the test that holds it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from splade_bench.cli.flags import Faults, Saving, Validating
from splade_bench.cli.source_flags import SOURCE_FLAGS
from splade_bench.fields import option


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSource:
    """A test and its text, decorators included."""

    name: str
    text: str


def find_tests(folder: str) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: of each flag, the test that names fewest others."""
    sources = list(_tests(Path(folder)))
    flags = [option(one.name) for group in (Saving, Validating, Faults) for one in fields(group)]
    flags += [row.name for row in SOURCE_FLAGS if row.name not in flags]
    naming = {flag: [source for source in sources if _names(source, flag)] for flag in flags}
    tries, failures = [], []
    for flag, found in naming.items():
        test = min(found, key=lambda test: (sum(test in others for others in naming.values()), test.name), default=None)
        tries.append({"flag": flag, "test": test.name if test else None, "tests": len(found)})
        failures += [] if test else [f"{flag} has no test"]
    return {
        "campaign": "flags",
        "fault": "a flag of checkpoints, evaluation, faults or the source trainers",
        "expected": "a test names it",
        "tried": len(flags),
        "seen": {"with a test": len(flags) - len(failures), "without": len(failures)},
        "failures": failures,
        "tries": tries,
    }


def _names(source: TestSource, flag: str) -> bool:
    """Whether a test has the flag, or the field that it becomes."""
    field_name = flag.removeprefix("--").replace("-", "_")
    return re.search(rf"(?<![\w-])({re.escape(flag)}|{field_name})(?![\w-])", source.text) is not None


def _tests(folder: Path) -> Iterator[TestSource]:
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                name = f"{path.relative_to(folder.parent).as_posix()}::{node.name}"
                yield TestSource(name=name, text="\n".join(lines[first - 1 : node.end_lineno]))
