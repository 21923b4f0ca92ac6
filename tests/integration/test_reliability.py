"""A few tries of each campaign of ``benchmarks/test_reliability.py``; the committed results have all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splade_bench.results.records import read_results
from splade_bench.results.reliability import ReliabilityResult

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the shim between a process and libc needs Linux")
@pytest.mark.parametrize(
    ("chosen", "campaigns"),
    [
        ("disk_fails and rename-EIO", {"disk"}),
        ("damaged or gate_files or (flags and malformed)", {"damage", "input"}),
        ("fifty_moments or ignored", {"kill", "stop"}),
    ],
)
def test_a_short_campaign_ends_as_expected_and_is_recorded(chosen: str, campaigns: set[str], tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [
        *[sys.executable, "-m", "pytest", "benchmarks/test_reliability.py", "-q", "--profile", "smoke", "-k", chosen],
        *["--memory-results", str(results), "--reports", str(tmp_path)],
    ]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert finished.returncode == 0, finished.stdout
    parts = [part for part in read_results([results]) if isinstance(part, ReliabilityResult)]
    assert {part.campaign for part in parts} == campaigns
    assert all(part.passed for part in parts)
    assert (tmp_path / "RELIABILITY.md").is_file()
