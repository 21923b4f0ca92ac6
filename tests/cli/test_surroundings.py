"""A user without a name and a home, on a console that knows ASCII only: every verb ends with its usual exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gated import make_result

from splade_bench.gate.baseline import write_baseline
from splade_bench.gate.cells import gated_cells
from splade_bench.results.records import append_result

# As in a container that runs as a number which is in no list of users.
NOBODY = """
import pwd


def unknown(key):
    raise KeyError(f"{key} not found")


pwd.getpwuid = pwd.getpwnam = unknown
"""
MISSING = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "PYTHONIOENCODING", "PYTHONUTF8")
ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def verb(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(NOBODY)
    path = f"{site}{os.pathsep}{os.pathsep.join(sys.path)}"
    kept = {name: value for name, value in os.environ.items() if name not in MISSING}
    return subprocess.run(
        [sys.executable, "-m", "splade_bench", *arguments],
        cwd=folder,
        env=kept | ASCII | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        encoding="ascii",
        timeout=300,
        check=False,
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of another processor than the baseline beside them, so that the verdict has an arrow."""
    here = make_result(test_id="tests/test_ü.py::test_it")
    there = replace(here, machine={**here.machine, "processor": "Prozessor für →"})
    write_baseline(tmp_path / "baseline.json", gated_cells([here]))
    append_result(tmp_path / "results.jsonl", there)
    return tmp_path / "results.jsonl"


@pytest.mark.slow
def test_case_9_check_report_and_compare_on_any_console(results: Path, tmp_path: Path) -> None:
    checked = verb(tmp_path, "check", "--results", str(results), "--baseline", "baseline.json")
    reported = verb(tmp_path, "report", "--results", str(results), "--output", "pages")
    compared = verb(tmp_path, "compare", str(results), str(results))

    assert checked.returncode == 0, checked.stderr
    assert "f\\xfcr \\u2192" in checked.stdout
    assert reported.returncode == 0, reported.stderr
    assert compared.returncode == 0, compared.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no list of users")
def test_case_R2_a_user_without_a_name_and_a_home_trains(train_file: Path, tmp_path: Path) -> None:
    files = ("--train-file", str(train_file), "--output-dir", "run")
    sizes = ("--model-name", "toy", "--device", "cpu", "--batch-size", "4", "--max-length", "16")

    trained = verb(tmp_path, "train", *files, *sizes, "--max-steps", "1", "--no-auto-fit")
    planned = verb(tmp_path, "plan", *sizes)
    measured = verb(tmp_path, "doctor")

    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "final_model" / "model.safetensors").exists()
    assert planned.returncode == 0, planned.stderr
    assert measured.returncode in (0, 1), measured.stderr
    assert "Traceback" not in measured.stderr
