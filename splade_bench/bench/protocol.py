"""What parent and worker say to each other: JSON, a message a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from typing_extensions import Self

from splade_bench.cell import Cell

EventName = Literal["ready", "done", "result", "failed"]
GO = "go\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The worker's first line of input."""

    cell: Cell
    measure: Literal["time", "heap", "gradient", "weights"]
    """time: train, timed, then evaluate. heap: two optimizer steps of the widest batch under memray. gradient: how far
    the trainer's gradient is from the plain definition's, on a small model. weights: save the model to its folder."""
    corpus_folder: str | None
    """Folder of the prepared corpus; None for synthetic workloads."""
    model_folder: str | None = None
    """Folder of the model's weights, where every trainer of a workload loads them; None: made in the process."""

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        record = json.loads(line)
        return cls(**{**record, "cell": Cell(**record["cell"])})


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
