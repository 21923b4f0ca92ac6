"""pytest options and fixtures of this project's sweep; the root conftest loads it.

Kept apart from any plugin that other projects load: a plain ``--device`` would clash with theirs. Imports no torch:
the process that waits for a cell must stay small.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from splade_bench.bench.run import CellRun
from splade_bench.bench.session import SweepSession
from splade_bench.cell import PROFILES, WORKLOADS, Cell, Sweep
from splade_bench.config import MEMORY_MODES
from splade_bench.errors import SpladeBenchError
from splade_bench.report.document import write_report
from splade_bench.results import CellResult, HeadResult, read_results

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

_SWEEP = pytest.StashKey[Sweep]()
_SESSION = pytest.StashKey[SweepSession]()
_CELL_ARGUMENTS = ("device", "batch_size", "gradient_accumulation_steps", "memory_mode", "seed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the axes of the sweep and where its results go."""
    group = parser.getgroup("splade-bench sweep")
    group.addoption("--device", default="cpu", help="devices to sweep: cpu, cuda, mps, or several with commas")
    group.addoption("--batch-sizes", help="queries per forward pass, with commas: 2,8")
    group.addoption("--gradient-accumulation-steps", help="batches per optimizer step, with commas: 1,4")
    group.addoption("--memory-modes", help=f"with commas, from: {', '.join(MEMORY_MODES)}")
    group.addoption("--workload", help=f"one of: {', '.join(WORKLOADS)}")
    group.addoption("--max-steps", type=int, help="optimizer steps of each cell, in place of the workload's queries")
    group.addoption("--seeds", help="one run of each cell for each seed, with commas")
    group.addoption(
        "--profile", default="default", choices=list(PROFILES), help="smoke: a minute; default: minutes; full: hours"
    )
    group.addoption("--results", metavar="FILE", help="JSON Lines file to append to (default: a new one in reports)")
    group.addoption(
        "--rounds", type=int, default=5, help="runs of each trainer in the peer benchmark, in turn (default: 5)"
    )
    group.addoption(
        "--resume", action="store_true", help="pass over cells that --results holds from this machine and source tree"
    )
    group.addoption("--cell-timeout", metavar="SECONDS", type=float, default=1800.0, help="end a cell after this long")
    group.addoption("--reports", metavar="FOLDER", default="reports", help="folder of results and report")


def pytest_configure(config: pytest.Config) -> None:
    """Read the sweep; a device that is not here is a usage error before anything runs."""
    config.addinivalue_line("markers", "takes_long: runs only where its file is named, or with --profile full")
    try:
        sweep = _read_sweep(config)
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error
    _require_devices(sweep)
    _require_own_results(config)
    config.stash[_SWEEP] = sweep
    reports = config.rootpath / config.getoption("--reports")
    results = config.getoption("--results")
    cache: Any = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    config.stash[_SESSION] = SweepSession(
        reports=reports,
        results=Path(results) if results else None,
        cache=cache.mkdir("splade_bench") if cache else reports / ".cache",
        profile=config.getoption("--profile"),
        cell_timeout_s=config.getoption("--cell-timeout"),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``cell`` runs once for each grid point; each axis is a parameter of its own."""
    if "cell" in metafunc.fixturenames:
        cells = list(metafunc.config.stash[_SWEEP].cells())
        several_seeds = len({cell.seed for cell in cells}) > 1
        metafunc.parametrize(
            _CELL_ARGUMENTS,
            [[getattr(cell, name) for name in _CELL_ARGUMENTS] for cell in cells],
            ids=[f"{cell.cell_id}-seed{cell.seed}" if several_seeds else cell.cell_id for cell in cells],
        )


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
    """Count the cells that will run, for the time that is left."""
    fixture_names = (getattr(item, "fixturenames", ()) for item in session.items)
    session.config.stash[_SESSION].planned_cells = sum("measure_cell" in names for names in fixture_names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End a sweep with its report's path."""
    session = config.stash[_SESSION]
    if session.finished:
        terminalreporter.write_line(f"results: {_shown(session.results_path, config)}")
        try:
            paths = write_report(read_results([session.results_path]), session.reports)
        except SpladeBenchError as error:
            terminalreporter.write_line(f"no report: {error}")
        else:
            for path in paths:
                terminalreporter.write_line(f"report: {_shown(path, config)}")


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
    )


@pytest.fixture(scope="session")
def record_cell(pytestconfig: pytest.Config) -> Callable[[Cell], CellResult]:
    """Run a cell in a fresh process and record it, whatever becomes of it; the caller judges its status.

    A cell that this run has measured already is not run again.
    """
    session = pytestconfig.stash[_SESSION]

    def record(cell: Cell) -> CellResult:
        result = session.recorded(cell, in_file=pytestconfig.getoption("--resume"))
        if result is None:
            result = session.measure(cell, _train_untimed)
        _show(session.line(result), pytestconfig)
        return result

    return record


@pytest.fixture(scope="session")
def gradient_error(pytestconfig: pytest.Config) -> Callable[[Cell], float]:
    """How far the gradient of a cell's trainer is from the plain definition's, relative, in float64."""
    return pytestconfig.stash[_SESSION].gradient_error


@pytest.fixture(scope="session")
def measure_head(pytestconfig: pytest.Config) -> Callable[..., HeadResult]:
    """Measure a head by itself in a fresh process and record it: ``(head, *, hidden_size, active_share)``."""
    return pytestconfig.stash[_SESSION].measure_head


@pytest.fixture
def measure_cell(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[[Cell], CellResult]:
    """Run a cell in a fresh process and record it; the benchmark's time is that of the training loop alone.

    The test ends here when the cell is not ``ok``: out of memory is an expected failure with its reason (a gate is to
    judge it), a skipped cell a skip, everything else a failure.
    """
    session = request.config.stash[_SESSION]

    def measure(cell: Cell) -> CellResult:
        benchmark.group = cell.device
        result = session.measure(
            cell, lambda run: benchmark.pedantic(run.train, setup=run.wait_until_ready, rounds=1, iterations=1)
        )
        _show(session.line(result), request.config)
        if result.status != "ok":
            benchmark.has_error = True  # also when it failed after the timed call: its time is not to be compared
        # Said here, outside the timed call, where pytest-benchmark would take them for a broken measurement.
        if result.status == "oom":
            pytest.xfail(f"out of memory: {result.error}")
        if result.status == "skipped":
            pytest.skip(result.error or "skipped")
        if result.status != "ok":
            pytest.fail(f"{result.cell_id}: {result.status}: {result.error}", pytrace=False)
        benchmark.extra_info.update(_extra_info(result))
        return result

    return measure


def _train_untimed(run: CellRun) -> None:
    """Outside pytest-benchmark's clock; the worker has its own."""
    run.wait_until_ready()
    run.train()


def _read_sweep(config: pytest.Config) -> Sweep:
    sweep = PROFILES[config.getoption("--profile")]
    changes: dict[str, Any] = {"devices": config.getoption("--device").split(",")}
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
    for flag, field in (("--workload", "workload"), ("--max-steps", "max_steps")):
        if config.getoption(flag) is not None:
            changes[field] = config.getoption(flag)
    return replace(sweep, **changes)


def _require_devices(sweep: Sweep) -> None:
    wanted = [device for device in sweep.devices if device != "cpu"]
    if not wanted:
        return
    # In a process of its own: importing torch here would stay with the parent of every measured cell.
    script = "from splade_bench.devices import available_devices; print(*available_devices())"
    available = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    for device in wanted:
        if device not in available:
            raise pytest.UsageError(f"--device {device}: this machine has {', '.join(available)} only")


def _show(line: str, config: pytest.Config) -> None:
    """Write a line to the terminal from inside a test, past pytest's capture."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(line)


def _require_own_results(config: pytest.Config) -> None:
    """A file to append to must hold results already, or nothing: found out before the first cell runs."""
    results = config.getoption("--results")
    if results and Path(results).exists():
        try:
            read_results([Path(results)])
        except SpladeBenchError as error:
            raise pytest.UsageError(f"--results: {error}") from error


def _extra_info(result: CellResult) -> dict[str, Any]:
    names = ("status", "peak_rss_bytes", "baseline_rss_bytes", "memray_peak_bytes", "final_loss", "validation_loss")
    return {name: getattr(result, name) for name in names} | {"mrr@10": (result.metrics or {}).get("mrr@10")}


def _shown(path: Path, config: pytest.Config) -> str:
    return str(path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path)
