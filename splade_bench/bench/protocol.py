"""What parent and worker say to each other: JSON, a message a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args

from typing_extensions import Self

from splade_bench.grid.cell import Cell

EventName = Literal["ready", "done", "result", "failed", "exit"]
MemoryPass = Literal["heap", "live", "pinned", "plan"]
MEMORY_PASSES: Sequence[MemoryPass] = get_args(MemoryPass)
DEFAULT_MEMORY_PASSES: Sequence[MemoryPass] = ("heap", "live")
GO = "go\n"
# Tensors of this size and more get a mapping of their own in the pinned pass: the peak is then the same in every run.
PINNED_MMAP_THRESHOLD_BYTES = 2**18


class Request(Protocol):
    """The first line of a worker's input."""

    @property
    def worker(self) -> str:
        """The module that serves it."""

    @property
    def rss_limit_bytes(self) -> int | None:
        """Resident memory over which the worker is ended."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What its environment has beside the parent's."""

    def to_line(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRequest:
    """Measure a cell."""

    cell: Cell
    measure: Literal["time", "heap", "live", "pinned", "plan", "floor", "gradient", "weights"]
    """time: train, timed, then evaluate. heap, live, pinned: two optimizer steps of the widest batch, under memray,
    with live tensors counted, or with an allocator whose peak is repeatable. plan: what the planner predicts for them.
    floor: what a process takes before it has a model. gradient: how far the trainer's gradient is from the plain
    definition's, on a small model. weights: save the model to its folder."""
    corpus_folder: str | None
    """Folder of the prepared corpus; None for synthetic workloads."""
    model_folder: str | None = None
    """Folder of the model's weights, where every trainer of a workload loads them; None: made in the process."""
    memory_timeline: bool = False
    """Whether the time pass samples resident memory, phase by phase."""

    @property
    def worker(self) -> str:
        return "splade_bench.worker.cell_worker"

    @property
    def memory_limit_bytes(self) -> int | None:
        """Of the pass whose memory counts: the others measure what the cell would need."""
        return self.cell.memory_limit_bytes if self.measure == "time" else None

    @property
    def rss_limit_bytes(self) -> int | None:
        """A processor's tensors are in the process's memory, an accelerator's in its own."""
        return None if self.cell.device in ("cuda", "mps") else self.memory_limit_bytes

    @property
    def environment(self) -> Mapping[str, str]:
        """No network, and no pool of tokenizer threads beside torch's."""
        return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        record = json.loads(line)
        return cls(**{**record, "cell": Cell(**record["cell"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRequest:
    """Measure a call of a function that a module has at its top."""

    module: str
    file: str
    """Where the module came from, for one that cannot be imported by its name, as tests under importlib mode."""
    function: str
    arguments: list[Any] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    """The parent's ``sys.path``."""
    measure: Literal["time", "heap", "live", "pinned", "plan", "floor"] = "time"
    """floor: what the process takes once the module is imported, before the call."""
    memory_limit_bytes: int | None = None
    memory_timeline: bool = False

    @property
    def worker(self) -> str:
        return "splade_bench.worker.call_worker"

    @property
    def rss_limit_bytes(self) -> int | None:
        """Of the pass whose memory counts, as with a cell."""
        return self.memory_limit_bytes if self.measure == "time" else None

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's own, but for what makes the same call take the same memory."""
        return {"PYTHONHASHSEED": "0"}

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        return cls(**json.loads(line))


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A line of the worker's output."""

    name: EventName
    values: dict[str, Any]

    def to_line(self) -> str:
        return json.dumps({"name": self.name, "values": self.values}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        record = json.loads(line)
        return cls(name=record["name"], values=record["values"])
