"""What a launcher told this process: its rank, and where the others are."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from splade_bench.errors import ConfigError

# torchrun and accelerate set the first names, srun the second. SLURM_STEP_NUM_TASKS and not SLURM_NTASKS: a batch
# script has that too, and a training that it starts without srun is one process.
_NAMES = (
    ("WORLD_SIZE", "RANK", "LOCAL_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
)
LOCAL_HOST = "127.0.0.1"
_FIRST_PORT, _PORTS = 20000, 10000
# "node[003-007,9]" or "node3,node4" -> the prefix, and the first number in the brackets.
_FIRST_NODE = re.compile(r"(?P<prefix>[^,\[]+)(?:\[(?P<number>\d+))?")


@dataclass(frozen=True, slots=True)
class Launch:
    """The place of a process among those of one training."""

    rank: int
    size: int
    local_rank: int
    """Its number on its machine, which is that of its accelerator."""
    host: str
    """Where rank 0 listens."""
    port: int


def free_port() -> int:
    """A port of this machine for rank 0, below those that the system gives to connections: it stays free until then."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOCAL_HOST, port))
            return port


def launch_of(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What the environment says; None if this process trains alone.

    Raises:
        ConfigError: a variable is missing or has no number.
    """
    for size_name, rank_name, local_name in _NAMES:
        if size_name not in environment:
            continue
        if environment[size_name] == "1":
            return None  # the launcher nearest to the process counts: srun may start one torchrun on each machine
        size, rank = _number(environment, size_name), _number(environment, rank_name)
        if not 0 <= rank < size:
            raise ConfigError(
                f"{rank_name} is {rank}, but {size_name} is {size}: start the training with torchrun or srun"
            )
        local_rank = _number(environment, local_name)
        return Launch(rank, size, local_rank, _host(environment), _port(environment))
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}, not a number: start the training with torchrun, accelerate or srun")
    return int(text)


def _host(environment: Mapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    first = _FIRST_NODE.match(nodes)
    found = environment.get("MASTER_ADDR") or (first and first["prefix"] + (first["number"] or ""))
    if not found:
        raise ConfigError("MASTER_ADDR is not set: name the machine of rank 0, or start with torchrun or srun")
    return found


def _port(environment: Mapping[str, str]) -> int:
    if "MASTER_PORT" in environment:
        return _number(environment, "MASTER_PORT")
    # All processes of a job must find the same one, and two jobs on one machine different ones.
    return _FIRST_PORT + _number(environment, "SLURM_JOB_ID") % _PORTS
