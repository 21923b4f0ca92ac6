"""pytest options and fixtures of this project's sweep; the root conftest loads it.

Kept apart from :mod:`splade_bench.pytest_plugin`, which other projects load: a plain ``--device`` would clash with
theirs. Imports no torch: the process that waits for a cell must stay small.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.cells import CellRun
from splade_bench.config import MEMORY_MODES
from splade_bench.errors import SpladeBenchError
from splade_bench.grid.cell import Cell
from splade_bench.grid.sweep import PROFILES, Sweep
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.pytest_plugin.hooks import open_session, show_line, shown_path
from splade_bench.pytest_plugin.options import memory_options, require_one_process
from splade_bench.report.document import write_report
from splade_bench.results.records import CallResult, CellResult, HeadResult, PlanResult, read_results

_SWEEP = pytest.StashKey[Sweep]()
_CELL_ARGUMENTS = ("device", "batch_size", "gradient_accumulation_steps", "memory_mode", "seed", "round_number")
# Runs of each contender where medians are compared.
ROUNDS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the axes of the sweep and where its report goes."""
    group = parser.getgroup("splade-bench sweep")
    group.addoption("--device", default="cpu", help="devices to sweep: cpu, cuda, mps, or several with commas")
    group.addoption("--batch-sizes", help="queries per forward pass, with commas: 2,8")
    group.addoption("--gradient-accumulation-steps", help="batches per optimizer step, with commas: 1,4")
    group.addoption("--memory-modes", help=f"with commas, from: {', '.join(MEMORY_MODES)}")
    group.addoption("--workload", help=f"one of: {', '.join(WORKLOADS)}")
    group.addoption("--max-steps", type=int, help="optimizer steps of each cell, in place of the workload's queries")
    group.addoption("--seeds", help="one run of each cell for each seed, with commas")
    group.addoption(
        "--profile", default="default", choices=list(PROFILES), help="smoke: two minutes; default: eight; full: hours"
    )
    group.addoption(
        "--rounds",
        type=int,
        help=f"equal runs of each cell, in turn (default: 1, and {ROUNDS} where trainers or techniques are compared)",
    )
    group.addoption(
        "--resume",
        action="store_true",
        help="pass over cells that --memory-results holds from this machine, source tree and corpus",
    )
    group.addoption(
        "--reports", metavar="FOLDER", default="reports", help="folder of the report and, below it, of results"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the sweep; a device that is not here is a usage error before anything runs."""
    require_one_process(config)
    if config.getoption("--resume") and memory_options(config).results_path is None:
        raise pytest.UsageError("--resume: name the file to go on with, --memory-results FILE")
    config.addinivalue_line("markers", "takes_long: runs only where its file is named, or with --profile full")
    try:
        sweep = _read_sweep(config)
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error
    _require_devices(sweep)
    config.stash[_SWEEP] = sweep
    started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    open_session(
        config,
        results_path=_reports(config) / "results" / f"{started}-{config.getoption('--profile')}.jsonl",
        resume=config.getoption("--resume"),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``cell`` runs once for each grid point; each axis is a parameter of its own."""
    if "cell" in metafunc.fixturenames:
        cells = list(metafunc.config.stash[_SWEEP].cells())
        metafunc.parametrize(
            _CELL_ARGUMENTS,
            [
                [
                    *[cell.device, cell.batch_size, cell.gradient_accumulation_steps, cell.memory_mode],
                    *[cell.seed, cell.round],
                ]
                for cell in cells
            ],
            ids=_ids(cells),
        )


def _ids(cells: Sequence[Cell]) -> list[str]:
    """A test's name is its cell's, with what else tells it from the others."""
    several_seeds = len({cell.seed for cell in cells}) > 1
    return [
        "-".join(
            [
                cell.cell_id,
                *([f"seed{cell.seed}"] if several_seeds else []),
                *([f"round{cell.round}"] if cell.round else []),
            ]
        )
        for cell in cells
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out benchmarks that take an hour, unless their file is named or the profile is ``full``."""
    if config.getoption("--profile") == "full":
        return
    named = {Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args}
    long = [item for item in items if item.get_closest_marker("takes_long") and item.path not in named]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the cells that will run, for the time that is left, and refuse a limit that none of them could keep."""
    if not session.config.option.collectonly and any("benchmarks" in item.path.parts for item in session.items):
        _require_one_package(Path.cwd() / "splade_bench", Path(__file__).parent)
    fixture_names = (getattr(item, "fixturenames", ()) for item in session.items)
    measuring = open_session(session.config)
    measuring.planned_cells = sum("measure_cell" in names for names in fixture_names)
    if measuring.planned_cells and not session.config.option.collectonly:
        try:
            measuring.require_room(next(session.config.stash[_SWEEP].cells()))
        except SpladeBenchError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End a sweep with its report's path."""
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
    """The axes that this run's options name."""
    return pytestconfig.stash[_SWEEP]


@pytest.fixture
def cell(
    sweep: Sweep,
    device: Any,
    batch_size: int,
    gradient_accumulation_steps: int,
    memory_mode: str,
    seed: int,
    round_number: int,
) -> Cell:
    """The grid point of this test."""
    return Cell(
        workload=sweep.workload,
        device=device,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        memory_mode=memory_mode,
        max_steps=sweep.max_steps,
        seed=seed,
        memory_limit_bytes=sweep.memory_limit_bytes,
        round=round_number,
    )


@pytest.fixture(scope="session")
def record_cell(pytestconfig: pytest.Config) -> Callable[[Cell], CellResult]:
    """Run a cell in a fresh process and record it, whatever becomes of it; the caller judges its status.

    A cell that this run, or with ``--resume`` an earlier one, has measured already is not run again.
    """
    session = open_session(pytestconfig)

    def record(cell: Cell) -> CellResult:
        result = session.recorded(cell) or session.measure(cell, _train_untimed)
        show_line(session.line(result), pytestconfig)
        return result

    return record


@pytest.fixture(scope="session")
def gradient_error(pytestconfig: pytest.Config) -> Callable[[Cell], float]:
    """How far the gradient of a cell's trainer is from the plain definition's, relative, in float64."""
    return open_session(pytestconfig).gradient_error


@pytest.fixture(scope="session")
def calibrate(pytestconfig: pytest.Config) -> Callable[..., CallResult]:
    """Let every probe read a known amount and record it: ``(function, *arguments)``."""
    return open_session(pytestconfig).calibrate


@pytest.fixture(scope="session")
def measure_head(pytestconfig: pytest.Config) -> Callable[..., HeadResult]:
    """Measure a head by itself in a fresh process and record it: ``(head, *, hidden_size, active_share)``."""
    return open_session(pytestconfig).measure_head


@pytest.fixture(scope="session")
def plan_article_run(pytestconfig: pytest.Config) -> Callable[[str], PlanResult]:
    """Plan one way to train what the article could not, in a fresh process, and record it: ``(name)``."""
    return open_session(pytestconfig).plan_article_run


@pytest.fixture(scope="session")
def reports_folder(pytestconfig: pytest.Config) -> Path:
    """Where ``--reports`` says; it is there."""
    folder = _reports(pytestconfig)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _train_untimed(run: CellRun) -> None:
    """Outside pytest-benchmark's clock; the worker has its own."""
    run.wait_until_ready()
    run.train()


def _reports(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getoption("--reports"))


def _read_sweep(config: pytest.Config) -> Sweep:
    sweep = PROFILES[config.getoption("--profile")]
    changes: dict[str, Any] = {
        "devices": config.getoption("--device").split(","),
        "memory_limit_bytes": memory_options(config).limit_bytes,
    }
    for flag, field, parse in (
        ("--batch-sizes", "batch_sizes", int),
        ("--gradient-accumulation-steps", "gradient_accumulation_steps", int),
        ("--memory-modes", "memory_modes", str),
        ("--seeds", "seeds", int),
    ):
        value = config.getoption(flag)
        if value:
            try:
                changes[field] = [parse(part) for part in value.split(",")]
            except ValueError as error:
                raise pytest.UsageError(f"{flag} {value}: write whole numbers with commas between them") from error
    for flag, field in (("--workload", "workload"), ("--max-steps", "max_steps"), ("--rounds", "rounds")):
        if config.getoption(flag) is not None:
            changes[field] = config.getoption(flag)
    return replace(sweep, **changes)


def _require_one_package(here: Path, imported: Path) -> None:
    """Refuse to measure where this process and its workers, which start in its folder, would import different code."""
    if (here / "__init__.py").is_file() and not here.samefile(imported):
        raise pytest.UsageError(
            f"{imported}: is not the package of this checkout, which its workers would take; pip install --editable ."
        )


def _require_devices(sweep: Sweep) -> None:
    wanted = [device for device in sweep.devices if device != "cpu"]
    if not wanted:
        return
    # In a process of its own: importing torch here would stay with the parent of every measured cell.
    script = "from splade_bench.device.devices import available_devices; print(*available_devices())"
    available = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    for device in wanted:
        if device not in available:
            raise pytest.UsageError(f"--device {device}: this machine has {', '.join(available)} only")
