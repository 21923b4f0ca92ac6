"""The pytest plugin for any project: measure a function or a training cell in a fresh process, and limit peak memory.

A run without measurements imports only what its options need, and never torch. The options have prefixes of their own
(``--memory-``, ``--cell-``), so that they do not clash with those of other plugins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from splade_bench.bench.protocol import DEFAULT_MEMORY_PASSES
from splade_bench.errors import SpladeBenchError
from splade_bench.pytest_plugin.options import check_options, memory_options
from splade_bench.pytest_plugin.terminal import LiveLine, show_line
from splade_bench.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from splade_bench.bench.cells import CellRun
    from splade_bench.bench.protocol import CallRequest
    from splade_bench.bench.session import MeasuringSession
    from splade_bench.grid.cell import Cell
    from splade_bench.results.records import CallResult, CellResult, Measurement

Measured = TypeVar("Measured", bound="Measurement")

MARKER = "limit_peak_memory"
_SESSION = pytest.StashKey["MeasuringSession"]()
_VERDICT = pytest.StashKey[list[str]]()
_PEAKS = pytest.StashKey[list[int]]()


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; an unusable one is a usage error before anything runs."""
    config.addinivalue_line(
        "markers",
        f'{MARKER}("1.5GiB"): fail the test if the largest peak RSS of its measured calls and cells is above this '
        "limit (the runtime memory counts). If it measures nothing: if the test process grew by more than this.",
    )
    options = memory_options(config)
    check_options(config, options)
    runs = not (config.option.collectonly or config.option.help)
    if runs and options.baseline_path is not None and not options.update_baseline:
        from splade_bench.pytest_plugin.baseline import require_baseline

        require_baseline(options)


def open_session(
    config: pytest.Config,
    *,
    results_path: Path | None = None,
    resume: bool = False,
    memory_passes: Sequence[str] | None = None,
    shard: str | None = None,
) -> MeasuringSession:
    """The session in which this run's fixtures measure; the first call makes it, with that call's arguments.

    ``memory_passes`` are those of a run without ``--memory-passes``; None: the default ones. ``shard`` is the part of
    the sweep that this run measures, such as 2/8; None: all of it.
    """
    if _SESSION in config.stash:
        return config.stash[_SESSION]
    from splade_bench.bench.calls import CallRunner
    from splade_bench.bench.cells import CellRunner
    from splade_bench.bench.session import MeasuringSession

    options = memory_options(config)
    chosen: Sequence[Sequence[str] | None] = (options.passes, memory_passes, DEFAULT_MEMORY_PASSES)
    passes = next(passes for passes in chosen if passes is not None)
    common: Any = dict(timeout_s=options.timeout_s, memory_passes=passes, memory_timeline=options.timeline)
    config.stash[_SESSION] = MeasuringSession(
        results_path=options.results_path or results_path,
        cells=CellRunner(cache=cache_folder(config), on_progress=LiveLine(config).show, **common),
        calls=CallRunner(**common),
        memory_limit_bytes=options.limit_bytes,
        resume=resume,
        shard=shard,
    )
    return config.stash[_SESSION]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker's limit that cannot be read, before the first test runs."""
    for item in items:
        _limit_bytes(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a rule for no cell, and a ``--memory-limit`` below the memory of any call, before the first test runs."""
    config, options = session.config, memory_options(session.config)
    if not config.option.collectonly and options.baseline_path is not None and not options.update_baseline:
        from splade_bench.pytest_plugin.baseline import require_fitting_rules

        require_fitting_rules(options, [item.nodeid for item in session.items])
    calls = any("measure_memory" in getattr(item, "fixturenames", ()) for item in session.items)
    if not calls or config.option.collectonly or options.limit_bytes is None:
        return
    from splade_bench.bench.protocol import CallRequest

    try:
        # The smallest possible call: its module imports next to nothing.
        smallest = CallRequest(module="splade_bench.bench.known_blocks", function="touch_block")
        open_session(config).require_room_for_call(smallest)
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the peaks of an earlier attempt: a test that runs again has to pass by itself."""
    item.stash[_PEAKS] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test whose peak is above its marker's limit."""
    limit_bytes = _limit_bytes(item)
    if limit_bytes is None:
        return (yield)
    from splade_bench.measure.growth import PeakGrowth

    peaks = item.stash[_PEAKS]
    with PeakGrowth() as growth:
        result = yield
    if peaks:
        peak_bytes, what = max(peaks), "the largest peak RSS of its measurements"
    else:
        peak_bytes, what = growth.peak_bytes, "the growth of the test process"
        if growth.had_children:
            text = f"{item.nodeid}: {MARKER} leaves out its child processes; call measure_memory, which counts them"
            show_line(text, item.config)
    if peak_bytes > limit_bytes:
        peak = f"{format_bytes(peak_bytes)} ({peak_bytes} bytes)"
        pytest.fail(f"{MARKER}: {what} is {peak}, over the limit of {format_bytes(limit_bytes)}", pytrace=False)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare the measurements with the baseline, or update it; a regression fails the run."""
    options = memory_options(session.config)
    if options.baseline_path is None or session.config.option.collectonly:
        return
    from splade_bench.pytest_plugin.baseline import judge

    measuring = session.config.stash.get(_SESSION, None)
    lines, failed = judge(measuring, options, ended_well=session.exitstatus == pytest.ExitCode.OK)
    session.config.stash[_VERDICT] = lines
    if failed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the comparison with the baseline, and where the results are."""
    verdict = config.stash.get(_VERDICT, None)
    if verdict is not None:
        terminalreporter.section("memory baseline")
        for line in verdict:
            terminalreporter.write_line(line)
    session = config.stash.get(_SESSION, None)
    if session is not None and session.finished and session.results_path is not None:
        terminalreporter.write_line(f"results: {shown_path(session.results_path, config)}")


@pytest.fixture
def measure_memory(request: pytest.FixtureRequest) -> Callable[..., CallResult]:
    """Measure a call in a fresh process: ``measure_memory(function, *arguments, **keywords)``.

    Put the function at the top of a module; its arguments must be JSON's (numbers, text, lists). Returns the peaks, the
    time and, if JSON can hold it, the returned value. The test fails if the call does.
    """
    from splade_bench.bench.calls import call_request

    session = open_session(request.config)

    def measure(function: Callable[..., object], /, *arguments: Any, **keywords: Any) -> CallResult:
        def measured() -> CallResult:
            call = call_request(function, *arguments, **keywords)
            test_id = request.node.nodeid
            folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
            name = f"{test_id}: {_call_text(call, request)}"
            return session.measure_call(name, call, test_id=test_id, folder=folder)

        result = _recorded(request, session, measured)
        if result.status != "ok":
            pytest.fail(f"{result.name}: {result.status}: {result.error}", pytrace=False)
        return result

    return measure


@pytest.fixture
def measure_cell(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[[Cell], CellResult]:
    """Train a cell in a fresh process: ``measure_cell(cell)``. pytest-benchmark's time is that of the training loop.

    Returns the result of a cell that is ``ok``. Any other cell ends the test here: out of memory is an expected failure
    (the gate judges it), a result that ``--resume`` found is a skip, and the rest are failures.
    """
    session = open_session(request.config)

    def measure(cell: Cell) -> CellResult:
        if (earlier := session.resumed(cell)) is not None:
            pytest.skip(f"{earlier.cell_id}: skipped, {session.results_path} already has it ({earlier.status})")
        benchmark.group, benchmark.params = cell.device, cell.to_dict()

        def timed(run: CellRun) -> None:
            benchmark.pedantic(run.train, setup=run.wait_until_ready, rounds=1, iterations=1)

        result = _recorded(request, session, lambda: session.measure(cell, timed, test_id=request.node.nodeid))
        if result.status == "ok":
            benchmark.extra_info.update(_extra_info(result))
            return result
        benchmark.has_error = True  # also after a failure outside the timed call: its time must not be compared
        # Raised here, outside the timed call: inside, pytest-benchmark would report a broken benchmark.
        if result.status == "oom":
            pytest.xfail(f"out of memory: {result.error}")
        pytest.fail(f"{result.cell_id}: {result.status}: {result.error}", pytrace=False)

    return measure


def _call_text(call: CallRequest, request: pytest.FixtureRequest) -> str:
    """A call as people write it, the same in every run and checkout: without the names of pytest's folders."""
    arguments = [*map(repr, call.arguments), *(f"{name}={value!r}" for name, value in call.keywords.items())]
    text = f"{call.function}({', '.join(arguments)})"
    if "tmp_path" in request.fixturenames:
        text = text.replace(str(request.getfixturevalue("tmp_path")), "tmp_path")
    if "tmp_path_factory" in request.fixturenames:
        text = text.replace(str(request.getfixturevalue("tmp_path_factory").getbasetemp()), "tmp")
    root = request.config.rootpath
    if root == root.parent:
        return text
    # Only where a path begins: in another path, the same folders may come again.
    return re.sub(rf"(?<![^\s'\"=(\[,]){re.escape(f'{root}{os.sep}')}", "rootdir/", text)


def shown_path(path: Path, config: pytest.Config) -> str:
    """A path relative to the root folder, if it is inside."""
    return str(path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path)


def _recorded(request: pytest.FixtureRequest, session: MeasuringSession, measure: Callable[[], Measured]) -> Measured:
    """Measure, show the result, and keep its peak for the test's limit."""
    try:
        result = measure()
    except SpladeBenchError as error:
        pytest.fail(str(error), pytrace=False)
    show_line(session.line(result), request.config)
    if result.peak_rss_bytes is None and result.status == "ok" and _limit_bytes(request.node) is not None:
        pytest.fail(f"{MARKER}: the peak of {request.node.nodeid} is unknown ({result.peak_rss_source})", pytrace=False)
    if result.peak_rss_bytes is not None:
        request.node.stash[_PEAKS].append(result.peak_rss_bytes)
    return result


def _extra_info(result: CellResult) -> dict[str, Any]:
    """What pytest-benchmark's JSON has of a cell besides its time; ``benchmem`` is what pytest-benchmem reads."""
    from splade_bench.results.figures import RECORDED

    info: dict[str, Any] = {figure.name: figure(result) for figure in RECORDED}
    info |= {"status": result.status, "baseline_rss_bytes": result.baseline_rss_bytes}
    if result.memray_peak_bytes is not None:  # it reads either all or none
        info["benchmem"] = {
            "peak_bytes": [result.memray_peak_bytes],
            "allocations": [result.memray_allocations],
            "total_bytes": [result.memray_allocated_bytes],
            "rss_bytes": [result.peak_rss_bytes],
        }
    return info


def _limit_bytes(item: pytest.Item) -> int | None:
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return None
    try:
        (size,) = marker.args
        return parse_bytes(size)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} takes one size, as in {MARKER}('1.5GiB'): {error}") from error


def cache_folder(config: pytest.Config) -> Path:
    """A folder below pytest's cache; a folder in the root folder if pytest has no cache or cannot write it."""
    cache: Any = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    if cache:
        with suppress(OSError):  # pytest itself only warns if it cannot write, and calls need no such folder
            return Path(cache.mkdir("splade_bench"))
    return config.rootpath / ".splade_bench_cache"
