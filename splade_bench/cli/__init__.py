"""``splade-bench``: one thin function a verb. A verb imports what it needs when it is called."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from splade_bench.errors import SpladeBenchError

_VERBS = {
    "train": "train a SPLADE model, on the embedded corpus unless --train-file is given",
    "evaluate": "rank held-out queries with a trained model",
    "plan": "predict the peak memory of a training, before anything is allocated",
    "fit": "choose the fastest settings whose peak memory fits a budget",
    "report": "write the trade-off tables and plots from recorded results",
    "check": "fail where results are worse than a committed baseline",
    "compare": "show how two results files differ, worst first",
    "doctor": "say what can be measured on this machine, and how well",
}
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 when a run failed, 2 for usage or a bad file, 130 or 143 after a signal."""
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    # Warnings of every library, but only this one's messages.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("splade_bench").setLevel(logging.INFO)
    if verb in ("-h", "--help"):
        _print_verbs()
        return 0
    if verb not in _VERBS:
        print(f"splade-bench: {verb}: no such verb; choose from {', '.join(_VERBS)}", file=sys.stderr)
        return _USAGE_ERROR
    run: Callable[[Sequence[str]], int] = import_module(f"splade_bench.cli.{verb}").run
    try:
        return run(rest)
    except SpladeBenchError as error:
        print(f"splade-bench {verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except (OSError, MemoryError, RuntimeError) as error:
        # A device that is lost, no memory left, a full disk: torch has no classes that tell them apart.
        logging.getLogger(__name__).debug("the run failed", exc_info=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"splade-bench {verb}: failed: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _print_verbs() -> None:
    print("usage: splade-bench VERB [options]\n\nverbs (splade-bench VERB --help tells more):")
    for verb, summary in _VERBS.items():
        print(f"  {verb:10}{summary}")
