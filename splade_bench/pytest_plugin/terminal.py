"""What measurements write to the terminal while a test runs, past pytest's capture."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from splade_bench.bench.progress import Progress


def show_line(line: str, config: pytest.Config) -> None:
    """Write a line to the terminal from inside a test."""
    with _past_capture(config) as reporter:
        if reporter:
            reporter.ensure_newline()
            reporter.write_line(line)


class LiveLine:
    """One line that is written again and again in its place: only on a terminal, and not with ``-q``.

    Elsewhere, as in the log of a CI job, each progress would be a line of its own; there nothing is written.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_shown = False

    def show(self, progress: Progress | None) -> None:
        """Replace the line by that of ``progress``; None: erase it."""
        if not _may_rewrite(self._config) or (progress is None and not self._is_shown):
            return
        with _past_capture(self._config) as reporter:
            if progress is None:
                reporter.rewrite("", erase=True)
                reporter.rewrite("")  # what comes next begins at the left edge
            else:
                reporter.ensure_newline()
                # A line as wide as the terminal would wrap, and only its last row would be written again.
                width = self._config.get_terminal_writer().fullwidth - 1
                reporter.rewrite(progress.line[:width], erase=True)
            reporter.flush()
        self._is_shown = progress is not None


def _may_rewrite(config: pytest.Config) -> bool:
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    return bool(reporter and reporter.isatty and reporter.verbosity >= 0 and os.environ.get("TERM") != "dumb")


@contextmanager
def _past_capture(config: pytest.Config) -> Generator[Any, None, None]:
    """The terminal's reporter while nothing is captured; None with ``-p no:terminal``."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter and capture:
        with capture.global_and_fixture_disabled():
            yield reporter
    else:
        yield reporter
