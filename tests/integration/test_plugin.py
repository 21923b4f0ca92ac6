"""The plugin in a project that is not this one, however it got there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from splade_bench.pytest_plugin.hooks import _cache_folder
from splade_bench.pytest_plugin.options import require_one_process
from splade_bench.results.records import CallResult, read_results

ROOT = Path(__file__).parent.parent.parent
FOREIGN = ROOT / "tests" / "support" / "foreign_project"
# With the plugin of this checkout, named on the command line, and no other.
PLUGIN = ("-p", "splade_bench.pytest_plugin")
CHECKOUT = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
FAILING = {"test_over_the_limit_in_its_own_process", "test_over_the_limit_in_this_process"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOREIGN, tmp_path / "project"))


def run_pytest(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def outcomes(finished: subprocess.CompletedProcess[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in finished.stdout.splitlines():
        status, _, rest = line.partition(" ")
        if status in ("PASSED", "FAILED", "ERROR"):
            found.setdefault(status, set()).add(rest.split(" ")[0].rpartition("::")[2])
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel, unpacked into a folder of its own."""
    build = pytest.importorskip("hatchling.build", reason="needs hatchling to build a wheel without a network")
    folder = tmp_path_factory.mktemp("wheel")
    script = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    assert build
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "site")
    return folder / "site"


def assert_works(finished: subprocess.CompletedProcess[str]) -> None:
    assert outcomes(finished).get("FAILED") == FAILING, finished.stdout + finished.stderr
    assert len(outcomes(finished)["PASSED"]) == 8
    assert "ERROR" not in outcomes(finished)
    assert finished.returncode == 1


def test_a_plain_checkout_serves_a_foreign_project(project: Path) -> None:
    finished = run_pytest(project, *PLUGIN, environment=CHECKOUT)

    assert_works(finished)
    assert "limit_peak_memory: the growth of this process's memory is" in finished.stdout
    assert "limit_peak_memory: the peak RSS of what it measured is" in finished.stdout
    results = read_results([project / "memory.jsonl"])
    assert all(isinstance(result, CallResult) for result in results)
    assert [result.status for result in results if isinstance(result, CallResult)].count("error") == 1
    assert "results: memory.jsonl" in finished.stdout


def test_a_wheel_serves_a_foreign_project_by_its_entry_point(project: Path, wheel: Path) -> None:
    finished = run_pytest(project, "--import-mode=importlib", environment={"PYTHONPATH": f"{wheel}:{project}"})

    assert_works(finished)


def test_the_package_as_it_is_installed_here_serves_a_foreign_project(project: Path) -> None:
    if not any(entry.name == "splade_bench.pytest_plugin" for entry in entry_points(group="pytest11")):
        pytest.skip("the package is not installed here")

    assert_works(run_pytest(project, "--import-mode=importlib", environment={"PYTHONPATH": str(project)}))


def test_a_conftest_that_names_the_plugin_loads_it_once(project: Path, wheel: Path) -> None:
    conftest = project / "conftest.py"
    conftest.write_text(conftest.read_text() + '\npytest_plugins = ["splade_bench.pytest_plugin"]\n')

    finished = run_pytest(project, environment={"PYTHONPATH": str(wheel)})

    assert_works(finished)


def test_pytest_memray_works_beside_it(project: Path) -> None:
    pytest.importorskip("pytest_memray", reason="memray does not run on Windows")
    finished = run_pytest(
        project,
        *[
            *PLUGIN,
            "-p",
            "pytest_memray.plugin",
            "--memray",
            "-k",
            "process_of_its_own or within",
        ],
        environment=CHECKOUT,
    )

    assert finished.returncode == 0, finished.stdout
    assert "MEMRAY REPORT" in finished.stdout


def test_the_plugin_imports_no_torch(project: Path) -> None:
    (project / "test_blocks.py").write_text(
        "import sys\n"
        "def test_nothing(pytestconfig):\n"
        "    assert 'splade_bench.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'transformers', 'psutil'} & set(sys.modules)\n"
    )

    finished = run_pytest(project, *PLUGIN, environment=CHECKOUT)

    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-limit", "8GB"], "--memory-limit: '8GB' is not a size; write it as 8GiB"),
        (["--memory-passes", "heap,rss"], "--memory-passes: 'rss' is no memory pass; choose from heap, live, pinned"),
        (["--cell-timeout", "soon"], "--cell-timeout: soon is no number of seconds above 0; write it as 600"),
        (["--cell-timeout", "-1"], "--cell-timeout: -1 is no number of seconds above 0"),
        (["--memory-baseline", ""], "--memory-baseline: is empty"),
        (["--memory-fail-on", "live_peak_bytes:1%"], "--memory-fail-on: name the file with --memory-baseline"),
    ],
)
def test_an_option_that_cannot_be_followed_is_a_usage_error(
    project: Path, arguments: list[str], complaint: str
) -> None:
    finished = run_pytest(
        project,
        *PLUGIN,
        *arguments,
        environment=CHECKOUT,
    )

    assert finished.returncode == 4
    assert complaint in finished.stderr


def test_a_call_has_the_same_name_whatever_pytests_temporary_folder(project: Path, tmp_path: Path) -> None:
    (project / "test_blocks.py").write_text(
        "import os.path\n"
        "def test_it(measure_memory, tmp_path):\n"
        "    assert measure_memory(os.path.basename, str(tmp_path / 'index')).value == 'index'\n"
    )
    names = set()
    for number in range(2):
        finished = run_pytest(
            project,
            *PLUGIN,
            f"--basetemp={tmp_path / str(number)}",
            *["--memory-results", f"{number}.jsonl"],
            environment=CHECKOUT,
        )
        assert finished.returncode == 0, finished.stdout
        names |= {getattr(result, "name", None) for result in read_results([project / f"{number}.jsonl"])}

    assert names == {"test_blocks.py::test_it: basename('tmp_path/index')"}


def test_a_test_that_is_run_again_is_judged_anew(project: Path) -> None:
    (project / "conftest.py").write_text(
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "    item._initrequest()\n"
        "    runtestprotocol(item, nextitem=nextitem, log=True)\n"
        "    return True\n"
    )
    (project / "test_blocks.py").write_text(
        "import pytest\n"
        "from work.blocks import touch\n"
        "attempts = []\n"
        "@pytest.mark.limit_peak_memory('160MiB')\n"
        "def test_it(measure_memory):\n"
        "    attempts.append(1)\n"
        "    measure_memory(touch, 256 if len(attempts) == 1 else 1)\n"
        "    assert len(attempts) == 2\n"
    )

    finished = run_pytest(project, *PLUGIN, environment=CHECKOUT)

    assert finished.returncode == 0, finished.stdout


def test_an_interrupt_keeps_what_was_measured_and_leaves_no_process(project: Path) -> None:
    (project / "work" / "waits.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "def wait(path):\n"
        "    Path(path).with_suffix('.new').write_text(str(os.getpid()))\n"
        "    Path(path).with_suffix('.new').rename(path)\n"
        "    time.sleep(120)\n"
    )
    (project / "test_blocks.py").write_text(
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
        [sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:cacheprovider"],
        cwd=project,
        env=os.environ | CHECKOUT,
        stdout=subprocess.DEVNULL,
        # A shell's job in the background ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        for _ in range(1200):
            if (project / "pid").exists():
                break
            time.sleep(0.05)
        worker = int((project / "pid").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == pytest.ExitCode.INTERRUPTED

    assert [result.status for result in read_results([project / "memory.jsonl"])] == ["ok"]
    for _ in range(100):
        if not psutil.pid_exists(worker):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(worker)


def test_what_only_collects_needs_no_baseline(project: Path) -> None:
    arguments = [*PLUGIN, "--memory-baseline", "nothing.json"]

    assert run_pytest(project, *arguments, "--collect-only", environment=CHECKOUT).returncode == 0
    finished = run_pytest(project, *arguments, environment=CHECKOUT)
    assert finished.returncode == 4
    assert "make it with --update-baseline (pytest: --memory-update-baseline)" in finished.stderr


def test_a_cache_that_cannot_be_written_stops_no_measurement(tmp_path: Path) -> None:
    class Cache:
        def mkdir(self, name: str) -> Path:
            raise PermissionError(name)

    config: Any = SimpleNamespace(cache=Cache(), rootpath=tmp_path)

    assert _cache_folder(config) == tmp_path / ".splade_bench_cache"


@pytest.mark.parametrize("option", [{"numprocesses": 2}, {"numprocesses": None, "tx": ["2*popen"]}])
def test_measuring_side_by_side_is_a_usage_error(option: dict[str, object]) -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(**option))

    with pytest.raises(pytest.UsageError, match="-n: what is measured side by side disturbs each other"):
        require_one_process(config)
    config.option = SimpleNamespace()
    require_one_process(config)


def test_a_marker_that_cannot_be_read_is_a_usage_error(project: Path) -> None:
    (project / "test_blocks.py").write_text(
        "import pytest\n@pytest.mark.limit_peak_memory(512)\ndef test_nothing():\n    pass\n"
    )

    finished = run_pytest(project, *PLUGIN, environment=CHECKOUT)

    assert finished.returncode == 4
    assert "limit_peak_memory takes one size" in finished.stderr


def test_a_results_file_that_is_none_is_a_usage_error(project: Path) -> None:
    (project / "memory.jsonl").mkdir()
    (project / "test_blocks.py").write_text(
        "from work.blocks import touch\ndef test_it(measure_memory):\n    measure_memory(touch, 1)\n"
    )

    finished = run_pytest(project, *PLUGIN, environment=CHECKOUT)

    assert finished.returncode == 4
    assert "--memory-results: " in finished.stderr
    assert "memory.jsonl: cannot be read" in finished.stderr


def test_a_limit_below_what_any_call_takes_is_a_usage_error_that_says_how_much(project: Path) -> None:
    finished = run_pytest(
        project,
        *PLUGIN,
        "--memory-limit",
        "8MiB",
        environment=CHECKOUT,
    )

    assert finished.returncode == 4
    assert re.search(r"--memory-limit 8 MiB: imports and warm-up alone take \d+ MiB here", finished.stderr)
    assert not (project / "memory.jsonl").exists()


def test_a_limit_below_what_the_functions_own_imports_take_fails_the_test_with_the_floor(project: Path) -> None:
    (project / "work" / "large.py").write_text(
        "BALLAST = b'x' * 200 * 2**20\n\n\ndef size() -> int:\n    return len(BALLAST)\n"
    )
    (project / "test_blocks.py").write_text(
        "from work.large import size\ndef test_it(measure_memory):\n    measure_memory(size)\n"
    )

    finished = run_pytest(
        project,
        *PLUGIN,
        "--memory-limit",
        "128MiB",
        environment=CHECKOUT,
    )

    assert finished.returncode == 1
    assert re.search(r"--memory-limit 128 MiB: imports and warm-up alone take 2\d\d MiB here", finished.stdout)
    assert not (project / "memory.jsonl").exists()


def test_a_limit_makes_a_call_fail_as_on_a_smaller_machine(project: Path) -> None:
    (project / "test_blocks.py").write_text(
        "import pytest\nfrom work.blocks import touch\n"
        "def test_it(measure_memory):\n"
        "    with pytest.raises(pytest.fail.Exception, match='oom'):\n"
        "        measure_memory(touch, 512)\n"
        "    measure_memory(touch, 32)\n"
    )

    finished = run_pytest(
        project,
        *PLUGIN,
        "--memory-limit",
        "256MiB",
        environment=CHECKOUT,
    )

    assert finished.returncode == 0, finished.stdout
    rows = [json.loads(line) for line in (project / "memory.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["oom", "ok"]
    assert rows[0]["memory_limit_bytes"] == 256 * 2**20
