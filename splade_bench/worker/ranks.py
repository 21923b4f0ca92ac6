"""The processes that train one cell together: rank 0, which is the cell's worker, and the others, which it starts.

The others are in the process group of rank 0, so the launcher's deadline, limit and kill end all of them.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from typing_extensions import Self

from splade_bench.bench.isolate import WorkerError, killed_by
from splade_bench.bench.protocol import CellRequest, Event, EventName
from splade_bench.distributed.group import RankError
from splade_bench.distributed.joining import LaunchedGroup, take_device
from splade_bench.distributed.launch import LOCAL_HOST, Launch, free_port
from splade_bench.measure.control_group import visible_oom_kills
from splade_bench.processes import module_command
from splade_bench.training.together import OneProcess, SeveralProcesses
from splade_bench.worker.probes import Fields
from splade_bench.worker.serving import Send

_TIMEOUT_S = 86400.0  # the cell's own deadline comes first
_ENDS_WITHIN_S = 10.0
_OF_ALL_RANKS = ("cpu_time_s", "major_faults", "swapped_bytes")


class OtherRanks:
    """The processes of all ranks but 0: started at the beginning of the block, and gone at its end."""

    def __init__(self, request: CellRequest) -> None:
        ranks = range(1, request.cell.processes)
        self._requests = [replace(request, rank=rank, memory_timeline=False) for rank in ranks]
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._oom_kills_before = visible_oom_kills()
        for request in self._requests:
            command = module_command(request.worker)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
            self._processes.append(process)
            assert process.stdin is not None
            try:
                with process.stdin as pipe:
                    pipe.write(request.to_line())
            except BrokenPipeError:
                pass  # it died early, which the first wait reports
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def wait_for(self, name: EventName) -> list[dict[str, Any]]:
        """Block until each rank has sent ``name``; their values, by rank.

        Raises:
            WorkerError: a rank ended before; its error begins with its number.
        """
        return [self._read_until(rank, name) for rank in self._ranks]

    def failure(self) -> WorkerError | None:
        """Why a rank ended, once one that failed has: not one that only misses the others. None: all still run."""
        deadline_s = time.monotonic() + _ENDS_WITHIN_S
        while time.monotonic() < deadline_s:
            for rank in self._ranks:
                if self._process(rank).poll() is not None:
                    try:
                        self._read_until(rank, "result")
                    except WorkerError as failure:
                        if failure.values["status"] != "error" or failure.values.get("phase"):
                            return failure
            time.sleep(0.05)
        return None

    @property
    def _ranks(self) -> range:
        return range(1, len(self._processes) + 1)

    def _process(self, rank: int) -> subprocess.Popen[str]:
        return self._processes[rank - 1]

    def _read_until(self, rank: int, name: EventName) -> dict[str, Any]:
        process = self._process(rank)
        assert process.stdout is not None
        for line in process.stdout:
            event = Event.from_line(line)
            if event.name == name:
                return event.values
            if event.name == "failed":
                raise WorkerError(**event.values | {"error": f"rank {rank}: {event.values['error']}"})
        code = process.wait()
        if code < 0:
            status, reason = killed_by(-code, oom_kills=visible_oom_kills() - self._oom_kills_before)
            raise WorkerError(status=status, error=f"rank {rank}: {reason}")
        raise WorkerError(status="error", error=f"rank {rank}: ended with exit code {code} and no result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes of a cell, as one of them sees them."""

    processes: OneProcess
    others: OtherRanks | None = None
    """Of rank 0, if there are several."""

    def fields_of_all(self, own: Fields) -> Fields:
        """The fields of rank 0, with what was measured in the others, once they have trained."""
        return of_all_ranks([own, *self.others.wait_for("result")]) if self.others else own


@contextmanager
def ranks_of(request: CellRequest, send: Send) -> Iterator[Ranks]:
    """The ranks of a request, which have met. Each has its share of the threads.

    Raises:
        ConfigError: a rank has no device.
        WorkerError: another rank failed.
    """
    if not request.has_ranks:
        yield Ranks(processes=OneProcess())
        return
    size, device_type = request.cell.processes, request.cell.device
    torch.set_num_threads(max(1, torch.get_num_threads() // size))
    with ExitStack() as stack:
        others = None
        if request.rank == 0:
            request = replace(request, port=free_port())
            others = stack.enter_context(OtherRanks(request))
        launch = Launch(request.rank, size, request.rank, LOCAL_HOST, request.port)
        take_device(launch, device_type)
        if others:
            others.wait_for("ready")  # one that cannot come is known before anybody waits for it
        else:
            send("ready", {})
        try:
            with LaunchedGroup(launch, device_type, timeout_s=_TIMEOUT_S) as group:
                yield Ranks(processes=SeveralProcesses(group), others=others)
        except RankError as error:
            if others is None:
                raise SystemExit(1) from error  # rank 0 finds out who failed
            raise others.failure() or error from error


def of_all_ranks(ranks: Sequence[Fields]) -> Fields:
    """The fields of rank 0, with the peaks of all ranks, and with the time and faults of all.

    Args:
        ranks: what was measured in each rank.
    """
    own, *others = ranks
    on_device = [fields["device_peak_allocated_bytes"] for fields in ranks]
    peaks = [fields["peak_rss_bytes"] for fields in ranks] if on_device[0] is None else on_device
    found = dict(own) | {"peaks_by_rank": peaks, "all_ranks_peak_bytes": _sum(peaks)}
    for name in _OF_ALL_RANKS:
        found[name] = _sum([fields[name] for fields in ranks])
    if own["others_cpu_time_s"] is not None:  # to rank 0, the other ranks are other processes
        found["others_cpu_time_s"] = max(0.0, own["others_cpu_time_s"] - sum(one["cpu_time_s"] for one in others))
    return found


def _sum(values: Sequence[Any]) -> Any:
    return None if None in values else sum(values)
