"""Processes that compute all the time beside a measurement: a machine in use. Imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# It ends by itself, some milliseconds later, if its parent was killed.
_LOOP = """\
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6):
        pass
"""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Inside the block, ``count`` processes each keep one core busy. They have ended when it is left, in any way."""
    with ExitStack() as running:
        for _ in range(count):
            process = running.enter_context(
                subprocess.Popen(
                    (sys.executable, "-S", "-c", _LOOP, str(os.getpid())),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # the parent handles Ctrl-C
                )
            )
            running.callback(process.kill)
        yield
