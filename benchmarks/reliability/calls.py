"""Calls ``splade-bench`` in this process, up to where the expensive part would begin."""

from __future__ import annotations

import contextlib
import io
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reliability.commands import Ended, failure_line
from splade_bench.cli import evaluate, main, starting, train

# Of a call that waits for something, such as the writer of a pipe.
TIMEOUT_S = 60


class Accepted(BaseException):
    """The input was accepted; ``value`` is what was made of it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """How a call ended: with an exit code, or with an accepted input."""

    ended: Ended
    accepted: Any = None


@dataclass(slots=True)
class Judged:
    """What was seen, and what was wrong."""

    folder: Path
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, seen: str, failure: str | None, *about: object) -> None:
        """Count one try."""
        self.seen[seen] += 1
        if failure:
            self.failures.append(failure_line(self.folder, *about, failure))

    def fields(self, *, fault: str, expected: str, seed: int) -> dict[str, Any]:
        """The measured fields of a ``ReliabilityResult``."""
        return {
            "campaign": "input",
            "fault": fault,
            "expected": expected,
            "tried": sum(self.seen.values()),
            "seen": dict(self.seen),
            "failures": self.failures,
            "seed": seed,
        }


@contextlib.contextmanager
def accepting_data() -> Iterator[None]:
    """In the block, ``train`` and ``evaluate`` end with :class:`Accepted` when they have read their data."""

    def accept(_: object, corpus: Any, **options: Any) -> None:
        raise Accepted(corpus)

    def accept_dataset(triples: Any, **options: Any) -> None:
        raise Accepted([*triples])

    with patch.object(starting, "load_encoder", accept), patch.object(evaluate, "retrieval_dataset", accept_dataset):
        yield


@contextlib.contextmanager
def accepting_flags() -> Iterator[None]:
    """In the block, ``train`` ends with :class:`Accepted` when it has read its flags and looked at its folder."""

    def accept(*_: object, **__: object) -> None:
        raise Accepted(None)

    with patch.object(train, "corpus_of", accept):
        yield


def call(arguments: Sequence[str]) -> Called:
    """Call a verb in this process; whatever leaves ``main`` would be a traceback."""
    output = io.StringIO()
    exit_code, accepted = 0, None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), _time_limit():
        try:
            exit_code = main(arguments)
        except Accepted as ending:
            accepted = ending.value if ending.value is not None else True
        except SystemExit as ending:
            exit_code = ending.code if isinstance(ending.code, int) else 1
        except BaseException as error:
            print(f"Traceback (most recent call last)\n{type(error).__name__}: {error}")
    return Called(ended=Ended(exit_code=exit_code, output=output.getvalue(), wall_time_s=0.0), accepted=accepted)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {TIMEOUT_S} s")

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
