"""The plugin in a project that is not this one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from results import make_call_result

from splade_bench.gate.baseline import write_baseline
from splade_bench.gate.cells import gated_cells
from splade_bench.measure.machine import machine_info, versions
from splade_bench.pytest_plugin.hooks import cache_folder, open_session
from splade_bench.pytest_plugin.options import memory_options, require_one_process
from splade_bench.results.records import CallResult, read_results

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent.parent
FOREIGN = ROOT / "tests" / "support" / "foreign_project"
# The plugin of this checkout, named on the command line, and no other plugin.
# The entry point of an editable installation has loaded the plugin into this process without rewriting its asserts.
LOADED_BEFORE = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
PLUGIN = ("-p", "splade_bench.pytest_plugin", "-p", "no:cacheprovider", *LOADED_BEFORE)
CHECKOUT = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
FAILING = {"test_over_the_limit_in_its_own_process", "test_over_the_limit_in_this_process"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the foreign project, for a pytest in a process of its own."""
    return Path(shutil.copytree(FOREIGN, tmp_path / "project"))


@dataclass(frozen=True)
class Run:
    """A run of the foreign project's tests, in a process of its own."""

    folder: Path
    exit_code: int
    output: str

    @property
    def outcomes(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in self.output.splitlines():
            status, _, rest = line.partition(" ")
            if status in ("PASSED", "FAILED", "ERROR"):
                found.setdefault(status, set()).add(rest.split(" ")[0].rpartition("::")[2])
        return found

    @property
    def names(self) -> list[str | None]:
        return [getattr(result, "name", None) for result in read_results([self.folder / "memory.jsonl"])]


def run_pytest(folder: Path, *arguments: str, environment: dict[str, str]) -> Run:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    finished = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    return Run(folder, finished.returncode, finished.stdout + finished.stderr)


def assert_works(run: Run) -> None:
    assert run.outcomes.get("FAILED") == FAILING, run.output
    assert len(run.outcomes["PASSED"]) == 8
    assert "ERROR" not in run.outcomes
    assert run.exit_code == 1


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The foreign project run once with the plugin of this checkout."""
    folder = Path(shutil.copytree(FOREIGN, tmp_path_factory.mktemp("checkout") / "project"))
    return run_pytest(folder, *PLUGIN, environment=CHECKOUT)


def test_a_plain_checkout_serves_a_foreign_project(checkout: Run) -> None:
    assert_works(checkout)


def test_the_limits_marker_names_what_is_over_the_limit(checkout: Run) -> None:
    assert "limit_peak_memory: the growth of the test process is" in checkout.output
    assert "limit_peak_memory: the largest peak RSS of its measurements is" in checkout.output


def test_every_call_of_a_foreign_project_is_recorded(checkout: Run) -> None:
    results = read_results([checkout.folder / "memory.jsonl"])

    assert all(isinstance(result, CallResult) for result in results)
    assert [result.status for result in results if isinstance(result, CallResult)].count("error") == 1
    assert "results: memory.jsonl" in checkout.output


@pytest.mark.slow
def test_a_wheel_serves_a_foreign_project_by_its_entry_point(folder: Path, wheel: Path) -> None:
    assert_works(run_pytest(folder, "--import-mode=importlib", environment={"PYTHONPATH": f"{wheel}:{folder}"}))


def test_the_installed_package_serves_a_foreign_project_and_names_its_calls_alike(folder: Path, checkout: Run) -> None:
    if not any(entry.name == "splade_bench.pytest_plugin" for entry in entry_points(group="pytest11")):
        pytest.skip("the package is not installed here")

    run = run_pytest(folder, "--import-mode=importlib", environment={"PYTHONPATH": str(folder)})

    assert_works(run)
    assert run.names == checkout.names


@pytest.mark.slow
def test_a_conftest_that_names_the_plugin_loads_it_once(folder: Path, wheel: Path) -> None:
    conftest = folder / "conftest.py"
    conftest.write_text(conftest.read_text() + '\npytest_plugins = ["splade_bench.pytest_plugin"]\n')

    assert_works(run_pytest(folder, environment={"PYTHONPATH": str(wheel)}))


def test_the_name_of_a_call_has_no_temporary_folder(checkout: Run) -> None:
    call = "touch_here('tmp_path/index', size_mib=16)"

    assert f"test_blocks.py::test_a_function_of_the_test_file_is_measured_too: {call}" in checkout.names


def test_pytest_memray_works_beside_it(folder: Path) -> None:
    pytest.importorskip("pytest_memray", reason="memray does not run on Windows")
    memray = ("-p", "pytest_memray.plugin", "--memray", "-k", "process_of_its_own or within")

    run = run_pytest(folder, *PLUGIN, *memray, environment=CHECKOUT)

    assert run.exit_code == 0, run.output
    assert "MEMRAY REPORT" in run.output


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The foreign project, whose tests run in this process."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    shutil.copytree(FOREIGN, pytester.path, dirs_exist_ok=True)
    return pytester


def run_here(project: pytest.Pytester, *arguments: str, tests: str | None = None) -> pytest.RunResult:
    """Run the foreign project, or other tests in its place."""
    if tests is not None:
        (project.path / "test_blocks.py").write_text(tests)
    return project.runpytest_inprocess(*PLUGIN, *arguments)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-limit", "8GB"], "--memory-limit: '8GB' is not a size; write it as 8GiB"),
        (
            ["--memory-passes", "heap,rss"],
            "--memory-passes: 'rss' is not a memory pass; choose from heap, live, pinned",
        ),
        (["--cell-timeout", "soon"], "--cell-timeout: soon is not a number of seconds above 0; write it as 600"),
        (["--cell-timeout", "-1"], "--cell-timeout: -1 is not a number of seconds above 0"),
        (["--memory-baseline", ""], "--memory-baseline: is empty"),
        (["--memory-fail-on", "live_peak_bytes:1%"], "--memory-fail-on needs a baseline: add --memory-baseline FILE"),
    ],
)
def test_an_unusable_option_is_a_usage_error(project: pytest.Pytester, arguments: list[str], complaint: str) -> None:
    finished = run_here(project, *arguments)

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in finished.stderr.str()


def test_the_options_are_parsed_once(project: pytest.Pytester) -> None:
    config = project.parseconfigure(*PLUGIN, "--memory-limit", "8GiB")

    options = memory_options(config)

    assert (options.limit_bytes, options.passes, options.timeout_s) == (8 * 2**30, ["heap"], 60.0)
    assert memory_options(config) is options


def test_the_passes_of_a_profile_are_those_of_a_run_that_names_none(project: pytest.Pytester) -> None:
    def passes(*arguments: str) -> Sequence[str]:
        config = project.parseconfigure(*PLUGIN, "-o", "memory_passes=", *arguments)
        return open_session(config, memory_passes=("pinned",))._cells.memory_passes

    assert passes() == ("pinned",)
    assert passes("--memory-passes", "live") == ["live"]
    assert passes("--memory-passes", "none") == ()


def test_a_test_that_runs_again_is_judged_by_its_last_attempt(project: pytest.Pytester) -> None:
    (project.path / "conftest.py").write_text(
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "    item._initrequest()\n"
        "    runtestprotocol(item, nextitem=nextitem, log=True)\n"
        "    return True\n"
    )
    finished = run_here(
        project,
        tests="import pytest\n"
        "from work.blocks import touch\n"
        "attempts = []\n"
        "@pytest.mark.limit_peak_memory('160MiB')\n"
        "def test_it(measure_memory):\n"
        "    attempts.append(1)\n"
        "    measure_memory(touch, 256 if len(attempts) == 1 else 1)\n"
        "    assert len(attempts) == 2\n",
    )

    assert finished.ret == 0, finished.stdout.str()


def test_an_interrupt_keeps_the_records_and_leaves_no_process(folder: Path) -> None:
    (folder / "work" / "waits.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "def wait(path):\n"
        "    Path(path).with_suffix('.new').write_text(str(os.getpid()))\n"
        "    Path(path).with_suffix('.new').rename(path)\n"
        "    time.sleep(120)\n"
    )
    (folder / "test_blocks.py").write_text(
        "from work.blocks import touch\n"
        "from work.waits import wait\n"
        "def test_first(measure_memory):\n"
        "    measure_memory(touch, 1)\n"
        "def test_second(measure_memory):\n"
        "    measure_memory(wait, 'pid')\n"
        "def test_third(measure_memory):\n"
        "    measure_memory(touch, 1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGIN],
        cwd=folder,
        env=os.environ | CHECKOUT,
        stdout=subprocess.DEVNULL,
        # A shell's background job ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        for _ in range(1200):
            if (folder / "pid").exists():
                break
            time.sleep(0.05)
        worker = int((folder / "pid").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == pytest.ExitCode.INTERRUPTED

    assert [result.status for result in read_results([folder / "memory.jsonl"])] == ["ok"]
    for _ in range(100):
        if not psutil.pid_exists(worker):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(worker)


def test_a_run_that_only_collects_needs_no_baseline(project: pytest.Pytester) -> None:
    baseline = ("--memory-baseline", "nothing.json")

    assert run_here(project, *baseline, "--collect-only").ret == 0
    finished = run_here(project, *baseline)
    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert "with --update-baseline (pytest: --memory-update-baseline)" in finished.stderr.str()


def test_a_rule_with_a_typo_in_its_cells_is_refused_before_a_test_runs(project: pytest.Pytester) -> None:
    call = make_call_result(
        "tests/test_old.py::test_it: build(3)",
        test_id="tests/test_old.py::test_it",
        **{"live_peak_bytes": 2**20, "machine": machine_info(), "versions": versions()},
    )
    write_baseline(project.path / "baseline.json", gated_cells([call]))
    project.makepyfile(test_mine="def test_it(): pass")
    baseline = ("--memory-baseline", "baseline.json", "--memory-fail-on")

    finished = run_here(project, "test_mine.py", *baseline, "live_peak_bytes:1%:tests/test_odl*")
    fitting = [
        run_here(project, "test_mine.py", *baseline, f"live_peak_bytes:1%:{cells}") for cells in ("*old*", "*mine*")
    ]

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "--memory-fail-on live_peak_bytes:1%:tests/test_odl*: no cell of the baseline has a name that fits "
        "tests/test_odl*; it has tests/test_old.py::test_it: build(3)"
    ) in finished.stderr.str()
    finished.assert_outcomes()
    for run in fitting:
        assert run.ret == pytest.ExitCode.TESTS_FAILED  # the baseline's call is missing
        run.assert_outcomes(passed=1)


def test_a_cache_that_cannot_be_written_stops_no_measurement(project: pytest.Pytester) -> None:
    not_a_folder = f"cache_dir={project.path / 'conftest.py'}/cache"

    config = project.parseconfigure("-p", "splade_bench.pytest_plugin", *LOADED_BEFORE, "-o", not_a_folder)

    assert cache_folder(config) == project.path / ".splade_bench_cache"


@pytest.mark.parametrize("option", [{"numprocesses": 2}, {"numprocesses": None, "tx": ["2*popen"]}])
def test_measuring_in_several_processes_is_a_usage_error(option: dict[str, object]) -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(**option))

    with pytest.raises(pytest.UsageError, match="-n: tests that run at the same time disturb each other"):
        require_one_process(config)
    config.option = SimpleNamespace()
    require_one_process(config)


def test_a_marker_that_cannot_be_read_is_a_usage_error(project: pytest.Pytester) -> None:
    finished = run_here(
        project, tests="import pytest\n@pytest.mark.limit_peak_memory(512)\ndef test_nothing():\n    pass\n"
    )

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert "limit_peak_memory takes one size" in finished.stderr.str()


def test_a_limit_on_this_process_says_that_child_processes_are_not_in_it(project: pytest.Pytester) -> None:
    marked = "import subprocess, pytest\n\n\n@pytest.mark.limit_peak_memory('1GiB')\ndef test_it():\n    "

    quiet = run_here(project, tests=marked + "pass\n")
    finished = run_here(project, tests=marked + "subprocess.run(['true'], check=True)\n")

    line = "test_blocks.py::test_it: limit_peak_memory leaves out its child processes; call measure_memory*"
    finished.stdout.fnmatch_lines([line])
    quiet.stdout.no_fnmatch_line("*child processes*")
    assert (finished.ret, quiet.ret) == (0, 0)


def test_a_results_file_that_cannot_be_read_is_a_usage_error(project: pytest.Pytester) -> None:
    (project.path / "memory.jsonl").mkdir()

    finished = run_here(project)

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert "--memory-results: " in finished.stderr.str()
    assert "memory.jsonl: cannot be read" in finished.stderr.str()


def test_a_limit_below_what_any_call_takes_is_a_usage_error_that_says_how_much(project: pytest.Pytester) -> None:
    finished = run_here(project, "--memory-limit", "8MiB")

    assert finished.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(
        r"--memory-limit 8 MiB: Python, its imports and the warm-up already take \d+ MiB;", finished.stderr.str()
    )
    assert not (project.path / "memory.jsonl").exists()


def test_a_limit_below_what_the_functions_own_imports_take_fails_the_test_with_the_floor(
    project: pytest.Pytester,
) -> None:
    (project.path / "work" / "large.py").write_text(
        "BALLAST = b'x' * 200 * 2**20\n\n\ndef size() -> int:\n    return len(BALLAST)\n"
    )

    finished = run_here(
        project,
        *("--memory-limit", "128MiB"),
        tests="from work.large import size\ndef test_it(measure_memory):\n    measure_memory(size)\n",
    )

    assert finished.ret == pytest.ExitCode.TESTS_FAILED
    assert re.search(
        r"--memory-limit 128 MiB: Python, its imports and the warm-up already take 2\d\d MiB;", finished.stdout.str()
    )
    assert not (project.path / "memory.jsonl").exists()


def test_a_limit_makes_a_call_fail_as_on_a_smaller_machine(project: pytest.Pytester) -> None:
    finished = run_here(
        project,
        *("--memory-limit", "256MiB"),
        tests="import pytest\nfrom work.blocks import touch\n"
        "def test_it(measure_memory):\n"
        "    with pytest.raises(pytest.fail.Exception, match='oom'):\n"
        "        measure_memory(touch, 512)\n"
        "    measure_memory(touch, 32)\n",
    )

    assert finished.ret == 0, finished.stdout.str()
    oom, ok = (result for result in read_results([project.path / "memory.jsonl"]) if isinstance(result, CallResult))
    assert (oom.status, ok.status) == ("oom", "ok")
    assert oom.memory_limit_bytes == 256 * 2**20
