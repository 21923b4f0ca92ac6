"""The pytest plugin for any project: measure a function or a training cell in a fresh process, and limit peak memory.

Imports no torch, and nothing of this package that a run without measurements would not need. Its options carry their
own prefixes (``--memory-``, ``--cell-``) and each is an ini key too, so that it can live beside any project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from splade_bench.bench.protocol import DEFAULT_MEMORY_PASSES, MEMORY_PASSES, MemoryPass
from splade_bench.errors import SpladeBenchError
from splade_bench.units import format_bytes, one_line, parse_bytes

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from splade_bench.bench.run import CellRun
    from splade_bench.bench.session import MeasuringSession
    from splade_bench.cell import Cell
    from splade_bench.report.baseline import GatedCell
    from splade_bench.report.rules import Rule
    from splade_bench.results import CallResult, CellResult, Measurement

MARKER = "limit_peak_memory"
_SESSION = pytest.StashKey["MeasuringSession"]()
_VERDICT = pytest.StashKey[list[str]]()
_PEAKS = pytest.StashKey[list[int]]()
_DEFAULT_TIMEOUT_S = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOptions:
    """The plugin's options, parsed."""

    results_path: Path | None
    baseline_path: Path | None
    fail_on: Sequence[str]
    update_baseline: bool
    limit_bytes: int | None
    passes: Sequence[MemoryPass]
    timeline: bool
    timeout_s: float


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that a measurement needs, each as an ini key too."""
    group = parser.getgroup("splade-bench memory")
    options: tuple[tuple[str, dict[str, Any]], ...] = (
        ("results", {"metavar": "FILE", "help": "JSON Lines file to append measurements to"}),
        ("baseline", {"metavar": "FILE", "help": "fail where a measurement is worse than in this baseline"}),
        (
            "limit",
            {"metavar": "SIZE", "help": "8GiB: measure as on a machine with that much memory, the runtime included"},
        ),
        (
            "passes",
            {
                "metavar": "NAMES",
                "help": "peaks to take too, in processes of their own, with commas, from: "
                f"{', '.join(MEMORY_PASSES)}; none for no such pass (default: {','.join(DEFAULT_MEMORY_PASSES)})",
            },
        ),
    )
    for name, settings in options:
        group.addoption(f"--memory-{name}", default=None, **settings)
        parser.addini(f"memory_{name}", settings["help"])
    group.addoption(
        "--memory-fail-on",
        metavar="RULE",
        action="append",
        help="METRIC:LIMIT[:CELLS], as live_peak_bytes:1%% or peak_rss_bytes:5%%+16MiB:base-*; may be repeated",
    )
    parser.addini("memory_fail_on", "rules of the baseline, one a line", type="linelist", default=[])
    group.addoption(
        "--memory-update-baseline", action="store_true", help="write what was measured to --memory-baseline"
    )
    group.addoption(
        "--memory-timeline",
        action="store_true",
        default=None,
        help="sample resident memory every 10 ms and record it phase by phase",
    )
    parser.addini("memory_timeline", "sample resident memory every 10 ms", type="bool", default=False)
    group.addoption(
        "--cell-timeout", metavar="SECONDS", default=None, help="end a measured process after this long (default: 1800)"
    )
    parser.addini("cell_timeout", "end a measured process after this long")


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; one that cannot be followed is a usage error before anything runs."""
    config.addinivalue_line(
        "markers",
        f'{MARKER}("1.5GiB"): fail the test if it took more: of what it measured with measure_memory or measure_cell '
        "the largest peak RSS, the runtime included; of a test that measured nothing its own growth of this process",
    )
    options = memory_options(config)
    _refuse_what_cannot_be_followed(config, options)
    if options.baseline_path is not None and not options.update_baseline:
        from splade_bench.measure.machine import machine_info, versions
        from splade_bench.report.baseline import conditions_of
        from splade_bench.report.gate import require_comparable

        try:
            base, rules = _baseline_and_rules(options)
            require_comparable(base, rules, conditions_of(machine_info(), versions()))
        except SpladeBenchError as error:
            raise pytest.UsageError(str(error)) from error


def _refuse_what_cannot_be_followed(config: pytest.Config, options: MemoryOptions) -> None:
    for flag in ("memory_results", "memory_baseline", "memory_limit", "memory_passes", "cell_timeout"):
        if config.getoption(flag) == "":
            raise pytest.UsageError(f"--{flag.replace('_', '-')}: is empty; give it a value, or leave it out")
    if options.baseline_path is None:
        for flag, given in (
            ("--memory-update-baseline", options.update_baseline),
            ("--memory-fail-on", config.getoption("memory_fail_on")),
        ):
            if given:
                raise pytest.UsageError(f"{flag}: name the file with --memory-baseline")
    if options.results_path is not None and options.results_path.exists():
        from splade_bench.results import read_results

        try:
            read_results([options.results_path])
        except SpladeBenchError as error:
            raise pytest.UsageError(f"--memory-results: {error}") from error
    measures = options.results_path or options.baseline_path
    if measures and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("-n: what is measured side by side disturbs each other; run without it")


def _baseline_and_rules(options: MemoryOptions) -> tuple[Mapping[str, GatedCell], Sequence[Rule]]:
    from splade_bench.report.baseline import read_baseline
    from splade_bench.report.rules import DEFAULT_RULES, parse_rule

    assert options.baseline_path is not None
    rules = [parse_rule(text) for text in options.fail_on] or DEFAULT_RULES
    return read_baseline(options.baseline_path), rules


def memory_options(config: pytest.Config) -> MemoryOptions:
    """The plugin's options, from the command line or the ini file.

    Raises:
        pytest.UsageError: a value cannot be read.
    """
    return MemoryOptions(
        results_path=_path(config, "memory_results"),
        baseline_path=_path(config, "memory_baseline"),
        fail_on=config.getoption("memory_fail_on") or config.getini("memory_fail_on"),
        update_baseline=config.getoption("memory_update_baseline"),
        limit_bytes=_parsed(config, "memory_limit", parse_bytes, default=None),
        passes=_parsed(config, "memory_passes", _parse_passes, default=DEFAULT_MEMORY_PASSES),
        timeline=bool(_option(config, "memory_timeline")),
        timeout_s=_parsed(config, "cell_timeout", _parse_timeout, default=_DEFAULT_TIMEOUT_S),
    )


def open_session(
    config: pytest.Config, *, results_path: Path | None = None, cache: Path | None = None, resume: bool = False
) -> MeasuringSession:
    """The session that this run's fixtures measure in, made on the first call, by another plugin in its own way."""
    if _SESSION in config.stash:
        return config.stash[_SESSION]
    from splade_bench.bench.calls import CallRunner
    from splade_bench.bench.run import CellRunner
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Hold a test to its marker's limit."""
    limit_bytes = _limit_bytes(item)
    if limit_bytes is None:
        return (yield)
    from splade_bench.measure.growth import PeakGrowth

    peaks = item.stash.setdefault(_PEAKS, [])
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
    try:
        lines, failed = _verdict(session, options, options.baseline_path)
    except SpladeBenchError as error:
        lines, failed = [str(error)], True
    session.config.stash[_VERDICT] = lines
    if failed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _verdict(session: pytest.Session, options: MemoryOptions, baseline_path: Path) -> tuple[list[str], bool]:
    """What to say of the baseline, and whether the run fails for it."""
    from splade_bench.report.baseline import gated_cells, read_baseline, write_baseline
    from splade_bench.report.gate import check, verdict_lines

    measuring = session.config.stash.get(_SESSION, None)
    head = gated_cells([*measuring.passed_over, *measuring.finished] if measuring else [])
    if not options.update_baseline:
        verdict = check(head, *_baseline_and_rules(options))
        return verdict_lines(verdict), verdict.exit_code != 0
    if session.exitstatus != pytest.ExitCode.OK:
        return ["not written: the run did not end well"], True
    before = read_baseline(baseline_path) if baseline_path.exists() else {}
    write_baseline(baseline_path, head)
    gone = [f"no longer in it: {one_line(name)}" for name in before if name not in head]
    return [f"written to {shown_path(baseline_path, session.config)}", *gone], False


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
        name = f"{request.node.nodeid}: {_call_text(function, arguments, keywords)}"
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
        request.node.stash.setdefault(_PEAKS, []).append(result.peak_rss_bytes)


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


def _path(config: pytest.Config, name: str) -> Path | None:
    """A path on the command line is relative to where pytest was called, one of the ini file to the root folder."""
    named = config.getoption(name)
    if named:
        return Path(config.invocation_params.dir, named)
    configured = config.getini(name)
    return config.rootpath / configured if configured else None


def _option(config: pytest.Config, name: str) -> Any:
    value = config.getoption(name)
    return config.getini(name) if value is None else value


def _parsed(config: pytest.Config, name: str, parse: Callable[[str], Any], *, default: Any) -> Any:
    value = _option(config, name)
    if not value:
        return default
    try:
        return parse(value)
    except ValueError as error:
        raise pytest.UsageError(f"--{name.replace('_', '-')}: {error}") from error


def _parse_passes(text: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    for name in names:
        if name not in MEMORY_PASSES:
            raise ValueError(f"{name!r} is no memory pass; choose from {', '.join(MEMORY_PASSES)}, or none")
    return [name for name in MEMORY_PASSES if name in names]


def _parse_timeout(text: str) -> float:
    timeout_s = float(text)
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"{text} is no number of seconds above 0")
    return timeout_s


def _cache_folder(config: pytest.Config) -> Path:
    cache: Any = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    return Path(cache.mkdir("splade_bench")) if cache else config.rootpath / ".splade_bench_cache"
