"""Errors that a user can cause, each message one line that says what to change; and text for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")


class SpladeBenchError(Exception):
    """Base of every error this package raises on purpose; the command line prints its text as is."""

    exit_code = 1


class ConfigError(SpladeBenchError):
    """An option or a combination of options that cannot be run."""

    exit_code = 2


class DataError(SpladeBenchError):
    """A file that cannot be read as what it should be; the text names the file and the line or record."""

    exit_code = 2


class TrainingError(SpladeBenchError):
    """A run that started and cannot go on: a loss that is not finite, no memory left, a lost device."""

    def __init__(self, message: str, *, status: str = "error") -> None:
        super().__init__(message)
        self.status = status


def one_line(text: str) -> str:
    """``text`` on one line, without the control characters and escape sequences that a terminal would act on."""
    return _CONTROL.sub(" ", text)


def error_line(error: BaseException) -> str:
    """The message of any error on one line; its class's name if it has none."""
    return " ".join(one_line(str(error)).split()) or type(error).__name__
