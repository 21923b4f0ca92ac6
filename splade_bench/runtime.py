"""Settings of the libraries under torch. They read them once, so these must be set before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from splade_bench.errors import ConfigError

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # libgomp's threads meet after each operator. The one that waits spins, by default for milliseconds, and takes
        # the core that another process has to leave first. After this many turns (some 50 microseconds) it sleeps.
        # Measured in benchmarks/test_company.py; other values are in reports/NEGATIVE.md.
        "GOMP_SPINCOUNT": "2000",
        # oneDNN keeps what it compiled for each shape, by default 1,024 times. Texts have ever new lengths, so a long
        # run would grow by 40 MiB. A layer's shapes need 4; compiling one takes 0.2 ms.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    }
)
# torch writes pages about a process that is gone; what they mean is said in one line.
_OF_SEVERAL_PROCESSES: Mapping[str, str] = MappingProxyType({"TORCH_CPP_LOG_LEVEL": "ERROR"})
_COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def runtime_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables to add to ``environment`` (None: that of this process). What it has already stays the user's."""
    given = os.environ if environment is None else environment
    several = any(given.get(name, "1") != "1" for name in _COUNTS)
    wanted = {**_ENVIRONMENT, **(_OF_SEVERAL_PROCESSES if several else {})}
    added = {name: value for name, value in wanted.items() if name not in given}
    if any(name in given for name in _WAITING):
        added.pop("GOMP_SPINCOUNT", None)
    return added


def prepare_runtime() -> bool:
    """Set how threads wait and what oneDNN keeps; False if torch is imported already: then nothing is changed.

    Call it first in a program that trains, as the command line does. The suite's own workers are started with these
    variables.

    Raises:
        ConfigError: ``OMP_NUM_THREADS`` asks for more threads than there are cores.
    """
    _require_cores(os.environ.get("OMP_NUM_THREADS", ""))
    if "torch" in sys.modules:
        return False
    os.environ.update(runtime_environment())
    return True


def _require_cores(threads: str) -> None:
    first = threads.split(",")[0].strip()  # a list has a number for each level of nesting
    cores = available_cores()
    if first.isdecimal() and int(first) > cores:
        raise ConfigError(
            f"OMP_NUM_THREADS {threads}: this process has {cores} core{'s' * (cores > 1)}, and threads that share a "
            f"core wait for each other; set it to {cores} or unset it"
        )


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
