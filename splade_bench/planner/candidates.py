"""The ways of computing a batch that a fit chooses from, as data.

Each is the user's own configuration with other settings of *how* it is computed. All but those marked inexact leave the
gradient of each batch as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any

from splade_bench.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Technique:
    """Settings that take less memory or less time."""

    name: str
    memory: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the memory settings."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration itself."""
    exact: bool = True
    devices: Collection[str] = ("cpu", "cuda", "mps")
    """Kinds of device for which it is considered."""

    @property
    def fields(self) -> frozenset[str]:
        """All that it sets."""
        return frozenset((*self.memory, *self.run))


TECHNIQUES: Sequence[Technique] = (
    Technique(name="no selective recomputation", memory={"selective_recomputation": False}),
    Technique(name="activation checkpointing", memory={"activation_checkpointing": True}),
    Technique(name="optimizer states on disk", memory={"optimizer_states": "disk"}),
    Technique(name="optimizer states in bfloat16", memory={"optimizer_states": "bfloat16"}, exact=False),
    Technique(name="no attention dropout", memory={"attention_dropout": False}, exact=False),
    Technique(name="bfloat16 autocast", run={"mixed_precision": "bf16"}, exact=False, devices=("cpu", "cuda")),
)
# What a configuration has before a technique is added: the exact settings that take least time.
_START: Mapping[str, Any] = MappingProxyType(
    {"selective_recomputation": True, "activation_checkpointing": False, "optimizer_states": "float32"}
)
MINI_BATCHES = "mini_batch_tokens"
# All that a candidate may differ in from what was asked for, its batch left aside.
SEARCHED_FIELDS = frozenset({MINI_BATCHES}).union(*(technique.fields for technique in TECHNIQUES))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of computing an optimizer step."""

    texts: int | None
    """Full-length texts in a mini-batch, at most; None: as configured."""
    techniques: tuple[Technique, ...] = ()
    splits: int = 1
    """Batches that one batch has been cut into, summed by accumulation: inexact from 2 on."""

    @property
    def inexact(self) -> list[str]:
        """What in it changes the gradient, by name."""
        named = [technique.name for technique in self.techniques if not technique.exact]
        return [*named, f"accumulation of {self.splits} batches in place of one"] if self.splits > 1 else named

    def describe(self) -> str:
        """The same for people."""
        size = [] if self.texts is None else [f"mini-batches of {self.texts}"]
        split = [f"accumulation of {self.splits}"] if self.splits > 1 else []
        return ", ".join([*size, *(technique.name for technique in self.techniques), *split]) or "as configured"


class Candidates:
    """Those for one configuration.

    Args:
        asked: what the user wants: its batch, accumulation and everything that is not searched are kept.
        given: searched fields that the user has set, which are kept too.
    """

    def __init__(self, asked: TrainConfig, *, given: Collection[str], device: str, allow_inexact: bool) -> None:
        start = {name: value for name, value in _START.items() if name not in given}
        self._asked = replace(asked, memory=replace(asked.memory, **start))
        self.allow_inexact = allow_inexact
        self.techniques = [
            technique
            for technique in TECHNIQUES
            if not technique.fields & set(given)
            and (technique.exact or allow_inexact)
            and device in technique.devices
            and self.config(Candidate(None, (technique,))) != self._asked
        ]
        texts = asked.batch_size * (2 + asked.negatives_per_query)
        cuts = asked.memory.gradient_caching and MINI_BATCHES not in given
        self.sizes: Sequence[int | None] = [*_doubled(texts), texts] if cuts else [None]

    def config(self, candidate: Candidate) -> TrainConfig:
        """The configuration that a candidate stands for."""
        memory: dict[str, Any] = {}
        run: dict[str, Any] = {}
        if candidate.texts is not None:
            memory[MINI_BATCHES] = candidate.texts * self._asked.max_length
        for technique in candidate.techniques:
            memory |= technique.memory
            run |= technique.run
        if candidate.splits > 1:
            run["batch_size"] = self._asked.batch_size // candidate.splits
            run["gradient_accumulation_steps"] = self._asked.gradient_accumulation_steps * candidate.splits
        return replace(self._asked, **run, memory=replace(self._asked.memory, **memory))

    def combinations(self) -> Iterator[tuple[Technique, ...]]:
        """Every set of techniques that do not contradict each other."""
        for count in range(len(self.techniques) + 1):
            for chosen in combinations(self.techniques, count):
                fields = [name for technique in chosen for name in technique.fields]
                if len(fields) == len(set(fields)):
                    yield chosen

    def splits(self) -> Iterator[int]:
        """Numbers of equal batches that the wanted one can be cut into, where that is allowed.

        Each keeps a negative for its queries: without one nothing is learnt.
        """
        batch_size, negatives = self._asked.batch_size, self._asked.negatives_per_query
        if not self.allow_inexact:
            return
        for splits in range(2, batch_size + 1):
            if batch_size % splits == 0 and (batch_size // splits > 1 or negatives):
                yield splits


def _doubled(below: int) -> Iterator[int]:
    size = 1
    while size < below:
        yield size
        size *= 2
