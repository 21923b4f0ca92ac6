"""Errors that a user can cause: each message is one line that says what to change."""

from __future__ import annotations


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
