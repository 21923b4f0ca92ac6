"""The options of :mod:`splade_bench.pytest_plugin`, on the command line or in an ini file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.protocol import DEFAULT_MEMORY_PASSES, MEMORY_PASSES, MemoryPass
from splade_bench.errors import SpladeBenchError
from splade_bench.units import parse_bytes

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


def add_options(parser: pytest.Parser) -> None:
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


def require_followable(config: pytest.Config, options: MemoryOptions) -> None:
    """Refuse, before anything runs, what would otherwise be passed over in silence.

    Raises:
        pytest.UsageError: it names the option and what to change.
    """
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
        pytest.UsageError: tests are to run side by side.
    """
    if getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise pytest.UsageError("-n: what is measured side by side disturbs each other; run without it")


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
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"{text} is no number of seconds above 0; write it as 600")
    return timeout_s
