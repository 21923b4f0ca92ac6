"""``splade-bench train`` in several processes of this machine, as a launcher starts them, but without its help."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from splade_bench.distributed.launch import free_port

_PATIENCE_S = 300.0


class Launched:
    """The processes of one training. Their messages go to files, by rank.

    Args:
        folder: for the files.
        size: how many.
        flags: of all of them.
        more_flags: of one of them.
        working_folders: where one of them starts.
        threads: of each.
        slurm: give them the variables of srun, not those of torchrun.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        flags: Sequence[object],
        *,
        more_flags: Mapping[int, Sequence[object]] = {},
        working_folders: Mapping[int, Path] = {},
        threads: int = 1,
        slurm: bool = False,
    ) -> None:
        self._logs = [folder / f"rank-{rank}.log" for rank in range(size)]
        port = str(free_port())
        self.processes = []
        for rank, log in enumerate(self._logs):
            place = [size, rank, rank]
            names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
            own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if slurm:
                names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
                own = {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": port}  # makes the same port of it
            command = [sys.executable, "-m", "splade_bench", "train", *map(str, [*flags, *more_flags.get(rank, ())])]
            own |= {"OMP_NUM_THREADS": str(threads)} | dict(zip(names, map(str, place), strict=True))
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        command, env=os.environ | own, stdout=file, stderr=file, cwd=working_folders.get(rank, folder)
                    )
                )

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, patience_s: float = _PATIENCE_S) -> list[int]:
        """The exit codes, when all have ended."""
        deadline_s = time.monotonic() + patience_s
        return [process.wait(max(0.1, deadline_s - time.monotonic())) for process in self.processes]

    def wait_for(self, path: Path) -> None:
        """Until a file is there."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not path.exists():
            assert time.monotonic() < deadline_s, f"{path} does not come: {self.messages(0)}"
            assert self.processes[0].poll() is None, self.messages(0)
            time.sleep(0.02)

    def messages(self, rank: int) -> str:
        """What it has written so far."""
        return self._logs[rank].read_text()
