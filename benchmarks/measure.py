"""Everything that the pages of ``reports/`` show, measured anew on this machine, in parts that can be resumed.

    python benchmarks/measure.py              # all parts of the pages, then the pages
    python benchmarks/measure.py peers head   # these parts; logs are measured only by name
    python benchmarks/measure.py --list       # the parts, and which of them this source tree has measured

A part that this source tree has measured is not measured again, and of one that was interrupted only the rest is. To
have it again, delete ``measured/NAME.done`` and its results file. The committed results stay until all parts of the
pages are measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tabulate import tabulate

from splade_bench.measure.machine import source_tree

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports"
FOLDER = ROOT / "measured"
# Committed results that this machine cannot measure; they stay.
ELSEWHERE = ("accelerator-h100.jsonl",)
_REPORT = "report --results reports/results --update README.md docs benchmarks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Commands of pytest, and what of ``reports/`` comes from them."""

    name: str
    writes: Sequence[str]
    minutes: int
    """On two quiet cores."""
    commands: Sequence[str]
    """Arguments of pytest. The results file, ``--resume`` and the folder are added."""

    @property
    def results_path(self) -> Path:
        return FOLDER / "results" / f"{self.name}.jsonl"

    @property
    def mark(self) -> Path:
        """Of a part that was measured: the source tree, and pytest's worst exit code."""
        return FOLDER / f"{self.name}.done"

    @property
    def has_page(self) -> bool:
        return any(name.endswith(".md") for name in self.writes)


_CELLS = "benchmarks/test_training_cells.py --profile full"
_MINI = f"{_CELLS} --workload mini --batch-sizes 8 --gradient-accumulation-steps 1"
_PEERS = "benchmarks/test_peers.py --rounds 3 --cell-timeout 600"
_ONE_TECHNIQUE = ",".join(
    f"standard+{name}"
    for name in (
        "streaming-head",
        "dynamic-padding",
        "gradient-caching",
        "activation-checkpointing",
        "no-attention-dropout",
    )
)
_BY_LENGTH = tuple(
    f"benchmarks/test_training_cells.py --workload length-{length} --batch-sizes 4 --seeds 1 --rounds 1 "
    "--gradient-accumulation-steps 1 --memory-modes standard,memory-efficient,minimal-memory"
    for length in (64, 128, 256, 512)
)
_RELIABILITY = "benchmarks/test_reliability.py --cell-timeout 7200"
PARTS: Sequence[Part] = (
    Part(name="article", writes=("ARTICLE.md",), minutes=1, commands=("benchmarks/test_article_failure.py",)),
    Part(
        name="accelerator",
        writes=("ACCELERATORS.md",),
        minutes=1,
        commands=("benchmarks/test_accelerator.py --profile accelerator",),
    ),
    Part(name="head", writes=("HEAD.md",), minutes=5, commands=("benchmarks/test_head.py",)),
    Part(
        name="sweep-tiny",
        writes=("TRADEOFFS.md",),
        minutes=47,
        commands=(
            f"{_CELLS} --batch-sizes 4,16 --memory-modes standard,article,memory-efficient",
            f"{_CELLS} --batch-sizes 16 --gradient-accumulation-steps 1 --memory-modes minimal-memory,{_ONE_TECHNIQUE}",
        ),
    ),
    Part(
        name="sweep-larger",
        writes=("TRADEOFFS.md",),
        minutes=40,
        commands=(
            _MINI,
            f"{_MINI} --max-steps 2 --seeds 1 --rounds 1 --memory-timeline --memory-passes none",
            f"{_CELLS} --workload base --batch-sizes 4 --gradient-accumulation-steps 4 --seeds 1 --rounds 1 "
            "--memory-modes standard,article,memory-efficient",
            *_BY_LENGTH,
        ),
    ),
    Part(name="ablation", writes=("ABLATION.md",), minutes=49, commands=("benchmarks/test_ablation.py --rounds 3",)),
    Part(name="instruments", writes=("INSTRUMENTS.md",), minutes=29, commands=("benchmarks/test_instruments.py",)),
    Part(name="planner", writes=("PLANNER.md",), minutes=17, commands=("benchmarks/test_planner_accuracy.py",)),
    Part(
        name="company",
        writes=("COMPANY.md",),
        minutes=15,
        commands=("benchmarks/test_company.py --rounds 3 --cell-timeout 60",),
    ),
    Part(
        name="peers-mini",
        writes=("PEERS.md",),
        minutes=26,
        commands=(
            f'{_PEERS} -k "test_peers and mini-256-real-b8 and 0.0"',
            f'{_PEERS} --profile smoke -k "test_peers and mini-256-b8 and 0.0"',
        ),
    ),
    Part(
        name="peers-base",
        writes=("PEERS.md",),
        minutes=29,
        commands=(
            f'{_PEERS} --profile smoke -k "test_peers and base-256-real-b4 and 0.0"',
            f'{_PEERS} --profile smoke -k "test_peers and base-512-b2 and 0.0"',
        ),
    ),
    Part(
        name="reliability-disk",
        writes=("RELIABILITY.md",),
        minutes=32,
        commands=(f'{_RELIABILITY} -k "call_of_the_disk or killed"',),
    ),
    Part(
        name="reliability-soak",
        writes=("RELIABILITY.md",),
        minutes=33,
        commands=(f"{_RELIABILITY} -k does_not_grow",),
    ),
    Part(
        name="reliability-rest",
        writes=("RELIABILITY.md",),
        minutes=34,
        commands=(f'{_RELIABILITY} -k "not call_of_the_disk and not killed and not does_not_grow"',),
    ),
    Part(name="fit", writes=("fit.log", "fit-limits.log"), minutes=25, commands=("benchmarks/test_fit.py",)),
    Part(
        name="planner-limits",
        writes=("planner-limits.log",),
        minutes=10,
        commands=("benchmarks/test_planner_limits.py",),
    ),
    Part(name="killed-sweep", writes=("killed-sweep.log",), minutes=10, commands=("benchmarks/test_killed_sweep.py",)),
    Part(
        name="gate-alarms",
        writes=("gate-alarms.log", "gate-alarms-company.log"),
        minutes=80,
        commands=("benchmarks/test_gate_alarms.py",),
    ),
)


def is_measured(part: Part, tree: str) -> bool:
    """Whether this source tree has measured it, with passing tests or not."""
    return part.mark.is_file() and part.mark.read_text().split()[0] == tree


def measure(part: Part, tree: str) -> int:
    """Run a part's commands to their end; the worst exit code. Its results of another source tree go first."""
    if part.results_path.is_file():
        first, _, _ = part.results_path.read_text(encoding="utf-8").partition("\n")
        if first and json.loads(first)["source_tree"] != tree:
            part.results_path.unlink()
    part.results_path.parent.mkdir(parents=True, exist_ok=True)
    worst = 0
    for command in part.commands:
        shared = ["--memory-results", str(part.results_path), "--resume", "--reports", str(FOLDER / "reports")]
        ended = subprocess.run([sys.executable, "-m", "pytest", *shlex.split(command), *shared], cwd=ROOT)
        # A test that fails has measured: a figure is not what it should be. Anything else has not.
        if ended.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sys.exit(ended.returncode)
        worst = max(worst, ended.returncode)
    part.mark.write_text(f"{tree} {worst}\n")
    return worst


def publish(parts: Sequence[Part]) -> int:
    """Put what the parts measured in the place of the committed results and logs, and make the pages; an exit code."""
    committed = REPORTS / "results"
    if any(part.has_page for part in parts):
        for path in committed.glob("*.jsonl"):
            if path.name not in ELSEWHERE:
                path.unlink()
    for part in parts:
        if part.has_page:
            shutil.copy(part.results_path, committed)
        for name in part.writes:
            if not name.endswith(".md"):
                shutil.copy(FOLDER / "reports" / name, REPORTS)
    return subprocess.run([sys.executable, "-m", "splade_bench", *_REPORT.split()], cwd=ROOT).returncode


def listing(tree: str) -> str:
    """The table of parts."""
    rows = [
        (part.name, ", ".join(part.writes), part.minutes, "yes" if is_measured(part, tree) else "") for part in PARTS
    ]
    return tabulate(rows, headers=("part", "of reports/", "minutes", "measured"), tablefmt="github")


def main(arguments: Sequence[str]) -> int:
    """Measure, and make the pages once all parts of them are measured; the exit code says whether a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="all parts of the pages by default")
    parser.add_argument("--list", action="store_true", help="show the parts")
    options, tree = parser.parse_args(arguments), source_tree()
    if options.list:
        print(listing(tree))
        return 0
    by_name = {part.name: part for part in PARTS}
    if unknown := [name for name in options.parts if name not in by_name]:
        parser.error(f"{unknown[0]}: the parts are {', '.join(by_name)}")
    of_pages = [part for part in PARTS if part.has_page]
    chosen = [by_name[name] for name in options.parts] or of_pages
    for part in chosen:
        if not is_measured(part, tree):
            print(f"{part.name}: about {part.minutes} minutes", flush=True)
            measure(part, tree)
    missing = [part.name for part in of_pages if not is_measured(part, tree)]
    if missing:
        print(f"no pages yet; still to measure: {', '.join(missing)}")
    elif publish([part for part in PARTS if is_measured(part, tree)]):
        return 1
    failed = [part.name for part in chosen if part.mark.read_text().split()[1] != "0"]
    if failed:
        print(f"measured, but a test failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
