"""The group of processes that a launcher started: gloo between CPUs, NCCL between CUDA devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.distributed.group import Group, RankError
from splade_bench.distributed.launch import Launch
from splade_bench.distributed.roll_call import RollCall
from splade_bench.errors import ConfigError, error_line

# By kind of device. What stays in the host's memory is sent by gloo in any case.
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class LaunchedGroup(Group):
    """The processes of a launcher. A process that fails leaves its error for the others: use it as a context.

    Raises:
        ConfigError: this kind of device cannot train with several processes, or the others do not come.
    """

    def __init__(self, launch: Launch, device_type: str, *, timeout_s: float) -> None:
        super().__init__(launch.rank, launch.size)
        take_device(launch, device_type)
        self._timeout_s = timeout_s
        os.environ |= {"MASTER_ADDR": launch.host, "MASTER_PORT": str(launch.port)}
        try:
            place = f"env://?rank={launch.rank}&world_size={launch.size}"
            store, *_ = next(rendezvous(place, timeout=timedelta(seconds=timeout_s)))
            store = PrefixStore(_attempt(), store)
            torch.distributed.init_process_group(
                _BACKENDS[device_type],
                store=PrefixStore("group", store),
                rank=launch.rank,
                world_size=launch.size,
                timeout=timedelta(seconds=timeout_s),
            )
        except (RuntimeError, ValueError) as error:
            where = f"{launch.host}:{launch.port}"
            raise ConfigError(f"cannot join the others at {where}: {error_line(error)}") from error
        self._roll_call = RollCall(PrefixStore("roll call", store), launch.rank, launch.size)

    def __enter__(self) -> LaunchedGroup:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and not isinstance(error, RankError):
            ended_early = isinstance(error, SystemExit)  # by a second signal
            self._roll_call.leave_fault(f"ended with exit code {error}" if ended_early else error_line(error))
        self._roll_call.end()
        if not isinstance(error, RankError):  # it would wait for processes that are gone
            torch.distributed.destroy_process_group()

    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None:
        with self._message():
            torch.distributed.all_to_all_single(received, sent, [*received_sizes], [*sent_sizes])

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            with self._message():
                torch.distributed.all_reduce(tensor)

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        with self._message():
            torch.distributed.broadcast(tensor, source)

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        own = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self._message():
            torch.distributed.all_gather(found, own)
        return [one.tolist() for one in found]

    def gather_objects(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with self._message():
            torch.distributed.all_gather_object(found, value)
        return found

    @contextmanager
    def _message(self) -> Iterator[None]:
        self._roll_call.next_message()
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._roll_call.missing(error, self._timeout_s) from error


def _attempt() -> str:
    """What torchrun's next attempt has other than this one. Its store has still what the processes of this one wrote.

    Every machine counts for itself, so it tells attempts apart only if all processes are on one.
    """
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if on_one_machine else '0'}"


def take_device(launch: Launch, device_type: str) -> None:
    """Let this process use the device of its number.

    Raises:
        ConfigError: there is none, or this kind of device cannot train with several processes.
    """
    if device_type not in _BACKENDS:
        raise ConfigError(f"--device {device_type}: trains in one process; start it without a launcher")
    if device_type != "cuda":
        return
    count = torch.cuda.device_count()
    if launch.local_rank >= count:
        raise ConfigError(
            f"this is process {launch.local_rank + 1} on its machine, which has {count} CUDA devices: "
            "start at most one process for each"
        )
    torch.cuda.set_device(launch.local_rank)
