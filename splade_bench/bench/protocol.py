"""The messages between a parent and its worker: JSON, one message a line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from typing_extensions import Self

from splade_bench.grid.cell import OWN_TRAINER, Cell
from splade_bench.json_records import ascii_json, parse_record
from splade_bench.runtime import runtime_environment

EventName = Literal["ready", "progress", "done", "result", "failed", "exit"]
MemoryPass = Literal["heap", "live", "pinned", "plan"]
MEMORY_PASSES: Sequence[MemoryPass] = get_args(MemoryPass)
DEFAULT_MEMORY_PASSES: Sequence[MemoryPass] = ("heap", "live")
GO = "go\n"
# In the pinned pass, tensors of at least this size get a mapping of their own, so that the peak repeats in every run.
PINNED_MMAP_THRESHOLD_BYTES = 2**18


class Message:
    """A dataclass that is written as one line of JSON, in ASCII: the other process may have another locale."""

    __slots__ = ()

    def to_line(self) -> str:
        return ascii_json(self) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read what :meth:`to_line` wrote.

        Raises:
            ValueError: the line is not JSON, or not such a message.
        """
        return parse_record(json.loads(line), cls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Message):
    """A line of the worker's output."""

    name: EventName
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRequest(Message):
    """The first line of a worker's input: measure a cell."""

    worker: ClassVar[str] = "splade_bench.worker.cell_worker"

    cell: Cell
    measure: Literal["time", "heap", "live", "pinned", "plan", "floor", "weights", "fit"]
    """time: train, timed, then evaluate. heap, live, pinned: two optimizer steps of the widest batch, under memray,
    with live tensors counted, or with an allocator whose peak is repeatable. plan: what the planner predicts for them.
    floor: the memory of the process before it has a model. weights: save the model to its folder. fit: choose the
    memory settings for the cell's budget."""
    corpus_folder: str | None = None
    """Folder of the prepared corpus; None for synthetic workloads."""
    model_folder: str | None = None
    """Folder from which every trainer of a workload loads the same weights; None: they are made in the process."""
    memory: dict[str, Any] | None = None
    """Settings in place of those of the cell's memory mode: the fields of a MemoryConfig, which fit has chosen."""
    memory_timeline: bool = False
    """Whether the time pass samples resident memory, phase by phase."""
    rank: int = 0
    """Of several processes that train the cell. Rank 0 is the worker, and starts the others with requests of theirs."""
    port: int = 0
    """Of this machine, where the ranks meet; rank 0 chooses it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """No network, no pool of tokenizer threads beside torch's, and the runtime of the command line.

        Peers get the one that their users have.
        """
        environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
        if self.cell.trainer != OWN_TRAINER:
            return environment
        return environment | runtime_environment({**os.environ, "WORLD_SIZE": str(self.cell.processes)})

    @property
    def has_ranks(self) -> bool:
        """Whether several processes train the cell: in the time pass, all others have one process."""
        return self.cell.processes > 1 and self.measure == "time"

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit of the time pass; the memory passes measure what the cell would need."""
        return self.cell.memory_limit_bytes if self.measure == "time" else None

    @property
    def rss_limit_bytes(self) -> int | None:
        """Resident memory over which the launcher ends the worker; an accelerator's tensors are not in it."""
        return None if self.cell.device in ("cuda", "mps") else self.memory_limit_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRequest(Message):
    """The first line of a worker's input: measure a call of a function that is at the top of a module."""

    worker: ClassVar[str] = "splade_bench.worker.call_worker"
    has_ranks: ClassVar[bool] = False
    # The user's own environment, except for what makes the same call take the same memory.
    environment: ClassVar[Mapping[str, str]] = {"PYTHONHASHSEED": "0"}

    module: str
    function: str
    file: str | None = None
    """File of a module that may have no importable name, as a test file in importlib mode; None: import it by name."""
    arguments: list[Any] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)
    path: list[str] = field(default_factory=lambda: [str(folder) for folder in sys.path])
    """The parent's ``sys.path``."""
    measure: Literal["time", "heap", "live", "pinned", "floor"] = "time"
    """As for a cell; floor: the memory of the process once the module is imported, before the call. There is no plan:
    the planner knows only this package's own training."""
    memory_limit_bytes: int | None = None
    memory_timeline: bool = False

    @property
    def rss_limit_bytes(self) -> int | None:
        """Resident memory over which the launcher ends the worker, in the time pass only."""
        return self.memory_limit_bytes if self.measure == "time" else None


Request = CellRequest | CallRequest
