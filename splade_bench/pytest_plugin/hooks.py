"""The pytest plugin for any project: measure a function or a training cell in a fresh process, and limit peak memory.

Imports no torch, and nothing of this package that a run without measurements would not need. Its options carry their
own prefixes (``--memory-``, ``--cell-``) and each is an ini key too, so that it can live beside any project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from splade_bench.errors import SpladeBenchError
from splade_bench.pytest_plugin.options import add_options, memory_options, require_followable
from splade_bench.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from splade_bench.bench.cells import CellRun
    from splade_bench.bench.session import MeasuringSession
    from splade_bench.grid.cell import Cell
    from splade_bench.results.records import CallResult, CellResult, Measurement

MARKER = "limit_peak_memory"
_SESSION = pytest.StashKey["MeasuringSession"]()
_VERDICT = pytest.StashKey[list[str]]()
_PEAKS = pytest.StashKey[list[int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that a measurement needs, each as an ini key too."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; one that cannot be followed is a usage error before anything runs."""
    config.addinivalue_line(
        "markers",
        f'{MARKER}("1.5GiB"): fail the test if it took more: of what it measured with measure_memory or measure_cell '
        "the largest peak RSS, the runtime included; of a test that measured nothing its own growth of this process",
    )
    options = memory_options(config)
    require_followable(config, options)
    runs = not (config.option.collectonly or config.option.help)
    if runs and options.baseline_path is not None and not options.update_baseline:
        from splade_bench.pytest_plugin.baseline import require_baseline

        require_baseline(options)


def open_session(
    config: pytest.Config, *, results_path: Path | None = None, cache: Path | None = None, resume: bool = False
) -> MeasuringSession:
    """The session that this run's fixtures measure in, made on the first call, by another plugin in its own way."""
    if _SESSION in config.stash:
        return config.stash[_SESSION]
    from splade_bench.bench.calls import CallRunner
    from splade_bench.bench.cells import CellRunner
    from splade_bench.bench.session import MeasuringSession

    options = memory_options(config)
    common: dict[str, Any] = {
        "timeout_s": options.timeout_s,
        "memory_passes": options.passes,
        "memory_timeline": options.timeline,
    }
    config.stash[_SESSION] = MeasuringSession(
        results_path=options.results_path or results_path,
        cells=CellRunner(cache=cache or _cache_folder(config), **common),
        calls=CallRunner(memory_limit_bytes=options.limit_bytes, **common),
        resume=resume,
    )
    return config.stash[_SESSION]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A limit that cannot be read is found out before the first test runs."""
    for item in items:
        _limit_bytes(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A memory limit that no call could keep is found out before the first test runs."""
    config = session.config
    calls = any("measure_memory" in getattr(item, "fixturenames", ()) for item in session.items)
    if not calls or config.option.collectonly or memory_options(config).limit_bytes is None:
        return
    from splade_bench.bench.known_blocks import touch_block

    try:
        open_session(config).require_room_for_call(touch_block)  # whose module imports next to nothing
    except SpladeBenchError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what an earlier attempt measured: a test that is run again is judged anew."""
    item.stash[_PEAKS] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Hold a test to its marker's limit."""
    limit_bytes = _limit_bytes(item)
    if limit_bytes is None:
        return (yield)
    from splade_bench.measure.growth import PeakGrowth

    peaks = item.stash[_PEAKS]
    with PeakGrowth() as growth:
        result = yield
    if peaks:
        peak_bytes, what = max(peaks), "the peak RSS of what it measured"
    else:
        peak_bytes, what = growth.peak_bytes, "the growth of this process's memory"
    if peak_bytes > limit_bytes:
        pytest.fail(
            f"{MARKER}: {what} is {format_bytes(peak_bytes)} ({peak_bytes} bytes), "
            f"over the limit of {format_bytes(limit_bytes)}",
            pytrace=False,
        )
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hold what was measured against the baseline: a regression fails the run."""
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
    """Say what the baseline said, and where the results are."""
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
    """Call a function in a fresh process and measure it: ``measure_memory(function, *arguments, **keywords)``.

    The function stands at the top of a module, its arguments are JSON's. The test fails here when the call does not
    come to its end; the result has its peaks, its time and, where JSON can hold it, its value.
    """
    config = request.config
    session = open_session(config)

    def measure(function: Callable[..., object], *arguments: Any, **keywords: Any) -> CallResult:
        name = f"{request.node.nodeid}: {_stable(_call_text(function, arguments, keywords), request)}"
        try:
            result = session.measure_call(name, function, arguments, keywords, test_id=request.node.nodeid)
        except SpladeBenchError as error:
            pytest.fail(str(error), pytrace=False)
        _note(request, result, session.line(result))
        if result.status != "ok":
            pytest.fail(f"{result.name}: {result.status}: {result.error}", pytrace=False)
        return result

    return measure


@pytest.fixture
def measure_cell(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[[Cell], CellResult]:
    """Train a cell in a fresh process and record it; the benchmark's time is that of the training loop alone.

    The test ends here when the cell is not ``ok``: out of memory is an expected failure with its reason (a gate is to
    judge it), a skipped cell or one that is resumed a skip, everything else a failure.
    """
    session = open_session(request.config)

    def measure(cell: Cell) -> CellResult:
        if (earlier := session.resumed(cell)) is not None:
            pytest.skip(f"{earlier.cell_id}: {earlier.status} in {session.results_path}")
        benchmark.group = cell.device

        def timed(run: CellRun) -> None:
            benchmark.pedantic(run.train, setup=run.wait_until_ready, rounds=1, iterations=1)

        try:
            result = session.measure(cell, timed, test_id=request.node.nodeid)
        except SpladeBenchError as error:
            pytest.fail(str(error), pytrace=False)
        _note(request, result, session.line(result))
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


def _call_text(function: Callable[..., object], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """A call as people write it: calls with other arguments are other measurements."""
    written = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in keywords.items())]
    return f"{getattr(function, '__qualname__', function)}({', '.join(written)})"


def _stable(text: str, request: pytest.FixtureRequest) -> str:
    """Without pytest's temporary folders, whose names are others each time and hold the user's."""
    if "tmp_path" in request.fixturenames:
        text = text.replace(str(request.getfixturevalue("tmp_path")), "tmp_path")
    if "tmp_path_factory" in request.fixturenames:
        text = text.replace(str(request.getfixturevalue("tmp_path_factory").getbasetemp()), "tmp")
    return text


def show_line(line: str, config: pytest.Config) -> None:
    """Write a line to the terminal from inside a test, past pytest's capture."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(line)


def shown_path(path: Path, config: pytest.Config) -> str:
    """A path as people see it from the root folder."""
    return str(path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path)


def _note(request: pytest.FixtureRequest, result: Measurement, line: str) -> None:
    """Show a result, and keep its peak for the test's limit."""
    show_line(line, request.config)
    if result.peak_rss_bytes is not None:
        request.node.stash[_PEAKS].append(result.peak_rss_bytes)


_EXTRA_FIGURES = (
    *("status", "peak_rss_bytes", "baseline_rss_bytes", "memray_peak_bytes", "live_peak_bytes"),
    *("pinned_peak_rss_bytes", "final_loss", "validation_loss"),
)


def _extra_info(result: CellResult) -> dict[str, Any]:
    """What pytest-benchmark's JSON says of a cell beside its time; ``benchmem`` is pytest-benchmem's own form."""
    info = {name: getattr(result, name) for name in _EXTRA_FIGURES}
    info["mrr@10"] = (result.metrics or {}).get("mrr@10")
    if result.memray_peak_bytes is not None:  # it reads all of them or none
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


def _cache_folder(config: pytest.Config) -> Path:
    cache: Any = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    if cache:
        with suppress(OSError):  # pytest only warns where it cannot write, and calls need no such folder
            return Path(cache.mkdir("splade_bench"))
    return config.rootpath / ".splade_bench_cache"
