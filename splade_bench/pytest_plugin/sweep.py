"""pytest options and fixtures of this project's own sweep; the root conftest loads this plugin.

It is separate from :mod:`splade_bench.pytest_plugin`, which other projects load: an option such as ``--device`` would
clash with theirs. Imports no torch: the process that waits for a cell must stay small.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.cells import CellRun
from splade_bench.bench.session import MeasuringSession
from splade_bench.errors import SpladeBenchError
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES, Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.measure.machine import PACKAGE_FOLDER
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.pytest_plugin.hooks import open_session, shown_path
from splade_bench.pytest_plugin.options import memory_options, require_one_process
from splade_bench.pytest_plugin.shards import add_shards
from splade_bench.pytest_plugin.terminal import show_line
from splade_bench.report.document import write_report
from splade_bench.results.records import CallResult, CellResult, read_results

_SWEEP = pytest.StashKey[Sweep]()
# A profile that chooses tests, not cells.
ACCELERATOR = "accelerator"
# Rounds of each contender in benchmarks that compare medians.
ROUNDS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the axes of the sweep and the folder of its report."""
    group = parser.getgroup("splade-bench sweep")
    group.addoption("--device", default="cpu", help="cpu, cuda, mps, or several of them with commas")
    group.addoption("--batch-sizes", help="batch sizes, with commas, such as 2,8")
    group.addoption("--gradient-accumulation-steps", help="batches per optimizer step, with commas, such as 1,4")
    group.addoption(
        "--processes", help="processes that train a cell together, with commas, such as 1,2: each cell runs with each"
    )
    group.addoption("--memory-modes", help=f"memory modes, with commas: {', '.join(MEMORY_MODES)}")
    group.addoption("--workload", help=f"one of: {', '.join(WORKLOADS)}")
    group.addoption("--max-steps", type=int, help="optimizer steps of each cell (default: what the workload says)")
    group.addoption("--seeds", help="seeds, with commas; each cell runs once for each seed")
    group.addoption(
        "--profile",
        default="default",
        choices=[*PROFILES, ACCELERATOR],
        help="smoke, gate: a minute; default: 4; full: hours; accelerator: benchmarks/test_accelerator.py alone, some "
        "minutes on a GPU",
    )
    group.addoption(
        "--rounds",
        type=int,
        help="how often each cell runs, in turn (default: 2 where memory modes are compared with one seed, else 1; in "
        f"test_ablation.py, test_company.py, test_head.py, test_peers.py and test_sentence_transformers.py: {ROUNDS})",
    )
    group.addoption(
        "--resume",
        action="store_true",
        help="skip cells that are already in the --memory-results file, if they were measured on this machine with the "
        "same source tree and corpus",
    )
    group.addoption(
        "--shard",
        metavar="K/N",
        help="run one of N shards of these benchmarks, such as 2/8; each shard has its own --memory-results file",
    )
    group.addoption(
        "--reports", metavar="FOLDER", default="reports", help="folder for the report; results go into its results/"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the sweep; a device that this machine does not have is a usage error before anything runs."""
    require_one_process(config)
    if config.getoption("--resume") and memory_options(config).results_path is None:
        raise pytest.UsageError("--resume needs --memory-results FILE")
    config.addinivalue_line("markers", "takes_long: runs only if its file is named, or with --profile full")
    config.addinivalue_line("markers", "accelerator: runs with --profile accelerator, which runs nothing else")
    try:
        sweep, shard = _read_sweep(config), add_shards(config)
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error
    _require_devices(sweep)
    config.stash[_SWEEP] = sweep
    started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    suffix = f"-shard-{shard.number}-of-{shard.count}" if shard else ""
    open_session(
        config,
        results_path=_reports(config) / "results" / f"{started}-{config.getoption('--profile')}{suffix}.jsonl",
        resume=config.getoption("--resume"),
        memory_passes=sweep.memory_passes,
        shard=str(shard) if shard else None,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``cell`` runs once for each grid point of the sweep, and is named after its cell."""
    if "cell" not in metafunc.fixturenames:
        return
    sweep = metafunc.config.stash[_SWEEP]

    def test_name(cell: Cell) -> str:
        seed = f"-seed{cell.seed}" if len(set(sweep.seeds)) > 1 else ""
        return cell.cell_id + seed + (f"-round{cell.round}" if cell.round else "")

    limited = open_session(metafunc.config).limited
    metafunc.parametrize("cell", [limited(cell) for cell in sweep.cells()], ids=test_name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect benchmarks that are marked so, unless their file is named or the profile is theirs."""
    profile = config.getoption("--profile")
    if profile == "full":
        return
    named = {Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args}

    def is_left_out(item: pytest.Item) -> bool:
        if profile == ACCELERATOR:
            return item.get_closest_marker("accelerator") is None
        return item.get_closest_marker("takes_long") is not None and item.path not in named

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not is_left_out(item)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the cells that will run, to estimate the time left, and refuse a limit that leaves no room for any cell."""
    if not session.config.option.collectonly and any("benchmarks" in item.path.parts for item in session.items):
        require_one_package(Path.cwd() / "splade_bench", PACKAGE_FOLDER)
    fixture_names = (getattr(item, "fixturenames", ()) for item in session.items)
    measuring = open_session(session.config)
    measuring.expected_cells = sum("measure_cell" in names for names in fixture_names)
    if measuring.expected_cells and not session.config.option.collectonly:
        try:
            measuring.require_room(next(session.config.stash[_SWEEP].cells()))
        except SpladeBenchError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the report of a sweep and show its path."""
    session = open_session(config)
    if all(isinstance(result, CallResult) and not result.is_calibration for result in session.finished):
        return
    assert session.results_path is not None
    try:
        paths = write_report(read_results([session.results_path]), _reports(config))
    except (SpladeBenchError, OSError) as error:
        terminalreporter.write_line(f"no report: {error}")
    else:
        for path in paths:
            terminalreporter.write_line(f"report: {shown_path(path, config)}")


@pytest.fixture(scope="session")
def sweep(pytestconfig: pytest.Config) -> Sweep:
    """The sweep of this run's options."""
    return pytestconfig.stash[_SWEEP]


@pytest.fixture(scope="session")
def measuring(pytestconfig: pytest.Config) -> MeasuringSession:
    """The session that measures and records: heads, plans of the article's run, calibrations."""
    return open_session(pytestconfig)


@pytest.fixture(scope="session")
def record_cell(measuring: MeasuringSession, pytestconfig: pytest.Config) -> Callable[[Cell], CellResult]:
    """Train a cell in a fresh process and record it, with any status: ``record_cell(cell)``.

    A cell that this run, or with ``--resume`` an earlier run, has already measured does not run again.
    """

    def train(run: CellRun) -> None:
        run.wait_until_ready()
        run.train()

    def record(cell: Cell) -> CellResult:
        result = measuring.recorded(cell) or measuring.measure(cell, train)
        show_line(measuring.line(result), pytestconfig)
        return result

    return record


@pytest.fixture(scope="session")
def reports_folder(pytestconfig: pytest.Config) -> Path:
    """The folder of ``--reports``, made if it does not exist."""
    folder = _reports(pytestconfig)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reports(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getoption("--reports"))


def _read_sweep(config: pytest.Config) -> Sweep:
    profile = config.getoption("--profile")
    sweep = PROFILES["default" if profile == ACCELERATOR else profile]
    changes: dict[str, Any] = {"devices": config.getoption("--device").split(",")}
    changes |= {
        name: value for name in ("workload", "max_steps", "rounds") if (value := config.getoption(name)) is not None
    }
    if modes := config.getoption("memory_modes"):
        changes["memory_modes"] = modes.split(",")
    for name in ("batch_sizes", "gradient_accumulation_steps", "processes", "seeds"):
        if value := config.getoption(name):
            try:
                changes[name] = [int(part) for part in value.split(",")]
            except ValueError as error:
                flag = f"--{name.replace('_', '-')}"
                raise pytest.UsageError(f"{flag} {value}: write whole numbers with commas between them") from error
    changed = sweep.changed(**changes)
    # Rounds are for comparing modes, and several seeds repeat that comparison already.
    repeats = len(changed.memory_modes) == 1 or len(changed.seeds) > 1
    return changed.changed(rounds=1) if repeats and "rounds" not in changes else changed


def require_one_package(here: Path, imported: Path) -> None:
    """Refuse to measure if this process and its workers, which start in its folder, would import different code.

    Raises:
        pytest.UsageError: ``here`` is a package, and not the imported one.
    """
    if (here / "__init__.py").is_file() and not here.samefile(imported):
        raise pytest.UsageError(
            f"{imported}: this is not the splade_bench of this checkout, and measurements would use it; run "
            "pip install --editable ."
        )


def _require_devices(sweep: Sweep) -> None:
    wanted = [device for device in sweep.devices if device != "cpu"]
    if not wanted:
        return
    # In a process of its own: torch would stay in the memory of this process, the parent of every measured cell.
    script = "from splade_bench.device.devices import available_devices; print(*available_devices())"
    available = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    for device in wanted:
        if device not in available:
            raise pytest.UsageError(f"--device {device}: this machine has only {', '.join(available)}")
