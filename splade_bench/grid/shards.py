"""A sweep in shards, for several machines: which of its parts each of them measures.

A part is what one machine has to measure as a whole: cells that are compared with each other, or tests that share a
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from typing_extensions import Self

from splade_bench.config import MODEL_PRESETS
from splade_bench.errors import ConfigError
from splade_bench.grid.cell import Cell
from splade_bench.grid.workloads import WORKLOADS

# Rough figures of a machine with two cores: a part's weight only has to be right beside the other parts'.
_FLOPS_PER_S = 5e10
_START_S = 6.0
_TEXTS_PER_QUERY = 3
_REAL_TOKENS = 75


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` shards of a sweep, numbered from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2/8``.

        Raises:
            ConfigError: it is not two numbers, or there is no such shard.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
            raise ConfigError(f"--shard {text}: write the shard's number and how many there are, such as 2/8")
        shard = cls(int(number), int(count))
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(f"--shard {text}: the first number must be from 1 to the second one")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def chosen(self, weights: Mapping[str, float]) -> Set[str]:
        """The parts of this shard; the heaviest is given away first, always to the shard with the least so far.

        Args:
            weights: part -> its weight, such as its seconds. Their order does not matter.

        Raises:
            ConfigError: there are more shards than parts, so that some would be empty.
        """
        if self.count > len(weights):
            raise ConfigError(f"--shard {self}: there are only {len(weights)} parts; use at most as many shards")
        shards: list[list[str]] = [[] for _ in range(self.count)]
        totals = [0.0] * self.count
        for part in sorted(weights, key=lambda part: (-weights[part], part)):
            least = totals.index(min(totals))
            shards[least].append(part)
            totals[least] += weights[part]
        return frozenset(shards[self.number - 1])


def shard_count(shard: str | None) -> str | None:
    """How many shards there are, of a shard as a record has it; None for a record of a whole sweep."""
    return shard.rpartition("/")[2] if shard else None


def compared_with(cell: Cell) -> str:
    """The same for cells that are compared with each other: they differ in memory mode only."""
    point = f"{cell.workload}-{cell.device}-b{cell.batch_size}-a{cell.gradient_accumulation_steps}"
    return f"{point}-processes{cell.processes}-seed{cell.seed}-round{cell.round}"


def expected_s(cell: Cell) -> float:
    """Roughly how long a cell takes: its process's start, and the products of a step that computes nothing twice.

    Several processes share the cores: they take longer to start, and compute as fast as one.
    """
    workload = WORKLOADS[cell.workload]
    preset = MODEL_PRESETS.get(workload.model_name, MODEL_PRESETS["mini"])
    per_step = cell.batch_size * cell.gradient_accumulation_steps
    queries = workload.epochs * workload.queries if cell.max_steps is None else cell.max_steps * per_step
    tokens = _TEXTS_PER_QUERY * queries * (workload.max_length if workload.lengths == "full" else _REAL_TOKENS)
    body, head = 12 * preset.hidden_size**2 * preset.layers, preset.hidden_size * preset.vocab_size
    return _START_S * cell.processes + tokens * (6 * body + 2 * head) / _FLOPS_PER_S
