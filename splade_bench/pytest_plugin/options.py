"""The options of :mod:`splade_bench.pytest_plugin`, on the command line or in an ini file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from splade_bench.bench.protocol import DEFAULT_MEMORY_PASSES, MEMORY_PASSES, MemoryPass
from splade_bench.errors import SpladeBenchError
from splade_bench.units import parse_bytes

_TIMEOUT_S = 1800.0
# Flag, type of its ini key (None: it has none), help, and further arguments for argparse.
_FLAGS: Sequence[tuple[str, Literal["string", "bool", "linelist"] | None, str, dict[str, Any]]] = (
    ("--memory-results", "string", "append measurements to this JSON Lines file", {"metavar": "FILE"}),
    ("--memory-baseline", "string", "fail if a measurement is worse than in this baseline", {"metavar": "FILE"}),
    (
        "--memory-fail-on",
        "linelist",
        "rule of the gate, METRIC:LIMIT[:CELLS], such as live_peak_bytes:1% or peak_rss_bytes:5%+16MiB:base-*; may "
        "be repeated (in an ini file: one rule a line)",
        {"metavar": "RULE", "action": "append"},
    ),
    ("--memory-update-baseline", None, "write the measurements to --memory-baseline", {"action": "store_true"}),
    ("--memory-limit", "string", "let a measured process take at most this memory, such as 8GiB", {"metavar": "SIZE"}),
    (
        "--memory-passes",
        "string",
        "extra measurements (memory passes), with commas; each runs in a process of its own: "
        f"{', '.join(MEMORY_PASSES)}, or none (default: {','.join(DEFAULT_MEMORY_PASSES)})",
        {"metavar": "NAMES"},
    ),
    ("--memory-timeline", "bool", "record resident memory every 10 ms, phase by phase", {"action": "store_true"}),
    (
        "--cell-timeout",
        "string",
        f"end a measured process after this time (default: {_TIMEOUT_S:g})",
        {"metavar": "SECONDS"},
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOptions:
    """The plugin's options, parsed."""

    results_path: Path | None
    baseline_path: Path | None
    fail_on: Sequence[str]
    update_baseline: bool
    limit_bytes: int | None
    passes: Sequence[MemoryPass] | None
    """None: those of the run's profile, or the default ones."""
    timeline: bool
    timeout_s: float


_PARSED = pytest.StashKey[MemoryOptions]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags and their ini keys: ``--memory-results`` is ``memory_results`` in an ini file."""
    group = parser.getgroup("splade-bench memory")
    for flag, ini_type, text, settings in _FLAGS:
        group.addoption(flag, default=None, help=text.replace("%", "%%"), **settings)
        if ini_type is not None:
            parser.addini(_name(flag), text, type=ini_type)


def memory_options(config: pytest.Config) -> MemoryOptions:
    """The plugin's options, from the command line or the ini file; parsed in the first call of a run.

    Raises:
        pytest.UsageError: a value cannot be read.
    """
    if _PARSED not in config.stash:
        config.stash[_PARSED] = MemoryOptions(
            results_path=_path(config, "memory_results"),
            baseline_path=_path(config, "memory_baseline"),
            fail_on=_value(config, "memory_fail_on"),
            update_baseline=bool(config.getoption("memory_update_baseline")),
            limit_bytes=_parsed(config, "memory_limit", parse_bytes, default=None),
            passes=_parsed(config, "memory_passes", _parse_passes, default=None),
            timeline=bool(_value(config, "memory_timeline")),
            timeout_s=_parsed(config, "cell_timeout", _parse_timeout, default=_TIMEOUT_S),
        )
    return config.stash[_PARSED]


def check_options(config: pytest.Config, options: MemoryOptions) -> None:
    """Refuse, before anything runs, options that would have no effect.

    Raises:
        pytest.UsageError: it names the option and what to change.
    """
    for flag, *_ in _FLAGS:
        if config.getoption(_name(flag)) == "":
            raise pytest.UsageError(f"{flag}: is empty; give it a value, or leave it out")
    if options.baseline_path is None:
        for flag in ("--memory-update-baseline", "--memory-fail-on"):
            if config.getoption(_name(flag)):
                raise pytest.UsageError(f"{flag} needs a baseline: add --memory-baseline FILE")
    if options.results_path is not None and options.results_path.exists():
        from splade_bench.results.records import read_results

        try:
            read_results([options.results_path])
        except SpladeBenchError as error:
            raise pytest.UsageError(f"--memory-results: {error}") from error
    if options.results_path or options.baseline_path:
        require_one_process(config)


def require_one_process(config: pytest.Config) -> None:
    """Refuse to measure in several processes of pytest-xdist.

    Raises:
        pytest.UsageError: the tests would run at the same time.
    """
    if getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise pytest.UsageError("-n: tests that run at the same time disturb each other's measurements; leave -n out")


def _name(flag: str) -> str:
    return flag.strip("-").replace("-", "_")


def _path(config: pytest.Config, name: str) -> Path | None:
    """A path: on the command line relative to the current folder, in the ini file relative to the root folder."""
    flag, ini = config.getoption(name), config.getini(name)
    if flag:
        return Path(config.invocation_params.dir, flag)
    return config.rootpath / ini if ini else None


def _value(config: pytest.Config, name: str) -> Any:
    value = config.getoption(name)
    return config.getini(name) if value is None else value


def _parsed(config: pytest.Config, name: str, parse: Callable[[str], Any], *, default: Any) -> Any:
    value = _value(config, name)
    try:
        return parse(value) if value else default
    except ValueError as error:
        raise pytest.UsageError(f"--{name.replace('_', '-')}: {error}") from error


def _parse_passes(text: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    for name in names:
        if name not in MEMORY_PASSES:
            raise ValueError(f"{name!r} is not a memory pass; choose from {', '.join(MEMORY_PASSES)}, or none")
    return [name for name in MEMORY_PASSES if name in names]


def _parse_timeout(text: str) -> float:
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"{text} is not a number of seconds above 0; write it as 600")
    return timeout_s
