"""Errors that a user can cause, each message one line that says what to change; and text for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")


class SpladeBenchError(Exception):
    """Base of every error that this package raises on purpose; the command line prints its message."""

    exit_code = 1


class ConfigError(SpladeBenchError):
    """An option, or a combination of options, that cannot be used."""

    exit_code = 2


class DataError(SpladeBenchError):
    """A file that does not have the expected content; the message names the file and the line or record."""

    exit_code = 2


class PlanError(SpladeBenchError):
    """A training that the planner cannot plan, for a fault of its own: it says nothing about the training's memory."""

    exit_code = 3


class TrainingError(SpladeBenchError):
    """A training that cannot start or go on: nothing fits, no memory is left."""


class NotFiniteError(TrainingError):
    """The loss or the gradient is NaN or infinite."""


def one_line(text: str) -> str:
    """``text`` on one line, without the control characters and escape sequences that a terminal would act on."""
    return _CONTROL.sub(" ", text)


def error_line(error: BaseException) -> str:
    """The message of any error on one line; its class's name if it has none."""
    return " ".join(one_line(str(error)).split()) or type(error).__name__
