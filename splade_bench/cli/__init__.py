"""``splade-bench``: a module for each verb, which is imported when the verb is called."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from splade_bench.errors import SpladeBenchError, error_line

VERBS = {
    "train": "train a SPLADE model on your data or the embedded corpus",
    "evaluate": "evaluate a trained model on held-out queries",
    "plan": "predict the peak memory of a training without running it",
    "fit": "choose the fastest settings of a training that fit a memory budget",
    "report": "write pages with tables and pictures from recorded results",
    "check": "compare results with a committed baseline, and fail if memory grew",
    "compare": "show how two results files differ, worst change first",
    "doctor": "show what can be measured on this machine, and how accurately",
}
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 when a run failed, 2 for usage or a bad file, 130 or 143 after a signal."""
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    # Warnings of every library; messages of this one only.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("splade_bench").setLevel(logging.INFO)
    if verb in ("-h", "--help"):
        print("usage: splade-bench VERB [options]\n\nverbs (splade-bench VERB --help shows the options of one):")
        print("\n".join(f"  {name:10}{summary}" for name, summary in VERBS.items()))
        return 0
    if verb not in VERBS:
        print(f"splade-bench: {verb}: no such verb; choose from {', '.join(VERBS)}", file=sys.stderr)
        return _USAGE_ERROR
    run: Callable[[Sequence[str]], int] = import_module(f"splade_bench.cli.{verb}").run
    try:
        return run(rest)
    except SpladeBenchError as error:
        print(f"splade-bench {verb}: {error_line(error)}", file=sys.stderr)
        return error.exit_code
    except (OSError, MemoryError, RuntimeError) as error:
        # A lost device, no memory left, a full disk: torch raises the same classes for all of them.
        logging.getLogger(__name__).debug("the run failed", exc_info=True)
        print(f"splade-bench {verb}: failed: {error_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
