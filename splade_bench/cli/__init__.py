"""``splade-bench``: a module for each verb, which is imported when the verb is called."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from splade_bench.errors import SpladeBenchError, error_line
from splade_bench.runtime import prepare_runtime

VERBS = {
    "train": "train a SPLADE model on your data or the embedded corpus",
    "evaluate": "evaluate a trained model on held-out queries",
    "encode": "write the sparse vectors of texts, for a search or for a search engine",
    "search": "find the best documents among encoded ones, exactly",
    "plan": "predict the peak memory of a training without running it",
    "fit": "choose the fastest settings of a training that fit a memory budget",
    "report": "write pages with tables and pictures from recorded results",
    "check": "compare results with a committed baseline, and fail if memory grew",
    "compare": "show how two results files differ, worst change first",
    "doctor": "show what can be measured on this machine, and how accurately",
}
_RUN_FAILED = 1
_USAGE_ERROR = 2
# As EX_SOFTWARE of sysexits.h: no verb uses it for a result.
_INTERNAL_ERROR = 70
_INTERRUPTED = 130
# 128 + SIGPIPE, as in shells.
_OUTPUT_CLOSED = 141
# Of these verbs, 1 means that the run failed. Of others it is a result: a regression, a training that does not fit.
_RUNS = ("train", "evaluate", "encode", "search")
# These compute with torch.
_COMPUTE = (*_RUNS, "plan", "fit")
_TRACEBACK = "SPLADE_BENCH_TRACEBACK"
_PACKAGE = Path(__file__).parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. Whatever happens ends in one line on standard error, without a traceback.

    The codes of every verb: 0 for done, 2 for usage or a bad file, 70 for an error of this program, 128 plus the number
    of a signal, 141 if nobody reads standard output any more. Of train, evaluate, encode and search, 1 means that the
    run failed. Each verb says what 1, 3 and others mean there.
    The environment variable ``SPLADE_BENCH_TRACEBACK`` adds the traceback.
    """
    _escape_what_a_console_cannot_show()
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    # Warnings of every library; messages of this one only.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("splade_bench").setLevel(logging.INFO)
    try:
        try:
            return _run(verb, rest)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SpladeBenchError as error:
        _complain(verb, error_line(error))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _OUTPUT_CLOSED
    except (OSError, MemoryError, RuntimeError) as error:
        # A lost device, no memory left, a full disk: torch raises the same classes for all of them.
        _complain(verb, f"failed: {error_line(error)}")
        return _RUN_FAILED if verb in _RUNS else _INTERNAL_ERROR
    except Exception as error:
        _complain(
            verb,
            f"internal error: {type(error).__name__}: {error_line(error)} ({_place(error)}); "
            f"set {_TRACEBACK}=1 to see the traceback, and report it with the command",
        )
        return _INTERNAL_ERROR


def _run(verb: str, arguments: Sequence[str]) -> int:
    if verb in ("-h", "--help"):
        print("usage: splade-bench VERB [options]\n\nverbs (splade-bench VERB --help shows the options of one):")
        print("\n".join(f"  {name:10}{summary}" for name, summary in VERBS.items()))
        return 0
    if verb not in VERBS:
        _complain("", f"{verb}: no such verb; choose from {', '.join(VERBS)}")
        return _USAGE_ERROR
    if verb in _COMPUTE:
        prepare_runtime()
    run: Callable[[Sequence[str]], int] = import_module(f"splade_bench.cli.{verb}").run
    return run(arguments)


def _complain(verb: str, line: str) -> None:
    """Write a line to standard error; before it, if that is wanted, the traceback of the exception being handled."""
    with suppress(OSError):  # the terminal was closed: the exit code still tells
        if os.environ.get(_TRACEBACK) and sys.exc_info()[0]:
            traceback.print_exc()
        print(f"{f'splade-bench {verb}'.strip()}: {line}", file=sys.stderr)


def _place(error: Exception) -> str:
    """File and line of the package's innermost function that ``error`` passed."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(_PACKAGE)), frames[-1])
    path = Path(frame.filename)
    return f"{path.relative_to(_PACKAGE.parent) if path.is_relative_to(_PACKAGE) else path.name}:{frame.lineno}"


def _escape_what_a_console_cannot_show() -> None:
    """Let an arrow in a console of another encoding become its escape: an error would look like a verb's result."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Send what is still to be written nowhere: Python writes it at its end, and would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
