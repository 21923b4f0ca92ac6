"""Everything that the pages of ``reports/`` show, measured anew on this machine, in parts that can be resumed.

    python benchmarks/measure.py              # all parts of the pages, then the pages
    python benchmarks/measure.py peers head   # these parts; logs are measured only by name
    python benchmarks/measure.py --list       # the parts, and which of them are measured

A part is measured again if the package, the part's own benchmarks or the installed versions have changed since; of one
that was interrupted only the rest is. To have it again without a change, delete ``measured/NAME.json``. The committed
results and pages stay until all parts of the pages are measured and the new pages are made.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from parts import EXTRAS, PARTS, Part
from tabulate import tabulate

from splade_bench.files import write_whole_file
from splade_bench.measure.machine import source_tree, versions

BENCHMARKS = Path(__file__).parent
ROOT = BENCHMARKS.parent
FOLDER = ROOT / "measured"
# Committed results that this machine cannot measure; they stay.
ELSEWHERE = ("accelerator-h100.jsonl",)
# What a page's tables are copied to.
DOCUMENTS = ("README.md", "docs/*.md", "benchmarks/*.md")
# They measure nothing. Of the parts, the commands count.
_NO_BENCHMARKS = ("measure.py", "parts.py", "api_reference.py", "architecture_table.py")


def results_path(part: Part) -> Path:
    return FOLDER / "results" / f"{part.name}.jsonl"


def state_path(part: Part) -> Path:
    """What is measured or begun, as JSON: its :func:`fingerprint`, and pytest's worst exit code or null."""
    return FOLDER / f"{part.name}.json"


def fingerprint(part: Part) -> str:
    """A hash of what a part measures: the package, the versions, the commands, and the benchmarks that they run.

    Modules beside the tests count for every part.
    """
    own = {shlex.split(command)[0] for command in part.commands}
    files = {
        path.relative_to(BENCHMARKS.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in BENCHMARKS.rglob("*.py")
        if path.name not in _NO_BENCHMARKS
    }
    read = {name: digest for name, digest in files.items() if not Path(name).name.startswith("test_") or name in own}
    facts = [source_tree(), versions(), list(part.commands), read]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def exit_code_of(part: Part) -> int | None:
    """Pytest's worst exit code, if the part is measured as it is now."""
    state = _state(part)
    code: int | None = state["exit_code"] if state.get("fingerprint") == fingerprint(part) else None
    return code


def measure(part: Part) -> None:
    """Run a part's commands to their end. What it measured before a change goes first."""
    state = {"fingerprint": fingerprint(part), "exit_code": None}
    if _state(part).get("fingerprint") != state["fingerprint"]:
        results_path(part).unlink(missing_ok=True)
    results_path(part).parent.mkdir(parents=True, exist_ok=True)
    write_whole_file(state_path(part), json.dumps(state))
    worst = 0
    for command in part.commands:
        shared = ["--memory-results", str(results_path(part)), "--resume", "--reports", str(FOLDER / "reports")]
        ended = subprocess.run([sys.executable, "-m", "pytest", *shlex.split(command), *shared], cwd=ROOT)
        # A test that fails has measured: a figure is not what it should be. Anything else has not.
        if ended.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sys.exit(ended.returncode)
        worst = max(worst, ended.returncode)
    write_whole_file(state_path(part), json.dumps(state | {"exit_code": worst}))


def publish(parts: Sequence[Part]) -> int:
    """Make the pages from what the parts measured, and put all of it in the place of what is committed; an exit code.

    If the pages cannot be made, what is committed stays as it is.
    """
    new = FOLDER / "new"
    shutil.rmtree(new, ignore_errors=True)
    results, committed = new / "reports" / "results", ROOT / "reports" / "results"
    results.mkdir(parents=True)
    for path in [*(results_path(part) for part in parts if part.has_page), *(committed / name for name in ELSEWHERE)]:
        shutil.copy(path, results)
    for name in {name for part in parts for name in part.writes if not name.endswith(".md")}:
        shutil.copy(FOLDER / "reports" / name, new / "reports")
    for path in [path for pattern in DOCUMENTS for path in ROOT.glob(pattern)]:
        copy = new / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    report = ["report", "--results", results, "--output", new / "reports"]
    documents = [new / name for name in dict.fromkeys(pattern.partition("/")[0] for pattern in DOCUMENTS)]
    command = [sys.executable, "-m", "splade_bench", *map(str, [*report, "--update", *documents])]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        return code
    shutil.copytree(new, ROOT, dirs_exist_ok=True)
    for path in committed.glob("*.jsonl"):
        if not (results / path.name).exists():
            path.unlink()
    return 0


def listing() -> str:
    """The table of parts."""
    rows = [
        (part.name, ", ".join(part.writes), part.minutes, "" if exit_code_of(part) is None else "yes") for part in PARTS
    ]
    return tabulate(rows, headers=("part", "of reports/", "minutes", "measured"), tablefmt="github")


def main(arguments: Sequence[str]) -> int:
    """Measure, and make the pages once all parts of them are measured.

    The exit code is 1 if a test failed, a part was skipped or the pages could not be made, and 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="all parts of the pages by default")
    parser.add_argument("--list", action="store_true", help="show the parts")
    options = parser.parse_args(arguments)
    if options.list:
        print(listing())
        return 0
    by_name = {part.name: part for part in PARTS}
    if unknown := [name for name in options.parts if name not in by_name]:
        parser.error(f"{unknown[0]}: the parts are {', '.join(by_name)}")
    try:
        return _measure_all([by_name[name] for name in options.parts] or [part for part in PARTS if part.has_page])
    except KeyboardInterrupt:
        print("interrupted: what is recorded stays, and the same command goes on with the rest")
        return 130


def _measure_all(chosen: Sequence[Part]) -> int:
    failed = False
    for part in chosen:
        if exit_code_of(part) is None:
            if part.extra and not all(map(importlib.util.find_spec, EXTRAS[part.extra])):
                print(f"{part.name}: skipped; it needs pip install 'splade-bench[{part.extra}]'")
                failed = True
                continue
            print(f"{part.name}: about {part.minutes} minutes", flush=True)
            measure(part)
    codes = {part.name: exit_code_of(part) for part in PARTS}
    if missing := [part.name for part in PARTS if part.has_page and codes[part.name] is None]:
        print(f"no pages yet; still to measure: {', '.join(missing)}")
    elif publish([part for part in PARTS if codes[part.name] is not None]):
        print("the pages could not be made; the committed results and pages are as they were")
        failed = True
    if not_passed := [part.name for part in chosen if codes[part.name]]:
        print(f"measured, but a test failed: {', '.join(not_passed)}")
    return failed or bool(not_passed)


def _state(part: Part) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = json.loads(state_path(part).read_text())
    except FileNotFoundError:
        return {}
    return state


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
