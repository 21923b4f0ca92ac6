"""The ways of computing a batch that a fit can choose from, as data.

Each candidate is the user's own configuration with other settings of *how* a batch is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any

from splade_bench.config import TrainConfig
from splade_bench.memory_modes import MEMORY_TECHNIQUES


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Change:
    """Settings that take less memory or less time than those that were asked for."""

    name: str
    """As ``--memory-mode`` spells the technique that is added or left out, else the flag."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the memory settings."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration itself."""
    exact: bool
    """Whether the gradient of a batch stays the same."""
    saves_time: bool = False
    """Whether it takes more memory to be faster: a technique is left out. Else it takes less."""
    devices: Collection[str] = ("cpu", "cuda", "mps")
    """Kinds of device for which it is considered."""

    @property
    def fields(self) -> frozenset[str]:
        """Everything that it sets."""
        return frozenset((*self.memory, *self.run))


def _technique(name: str, *, added: bool = True) -> Change:
    technique = MEMORY_TECHNIQUES[name]
    if added:
        return Change(name=name, memory=technique.settings, exact=technique.exact)
    return Change(name=f"without {name}", memory=technique.settings_off, exact=technique.exact, saves_time=True)


SETTINGS_TO_TRY: Sequence[Change] = (
    replace(_technique("heap-trimming", added=False), devices=("cpu",)),
    replace(_technique("mmap-threshold", added=False), devices=("cpu",)),
    _technique("selective-recomputation", added=False),
    _technique("activation-checkpointing"),
    _technique("optimizer-states-disk"),
    _technique("optimizer-states-bfloat16"),
    _technique("no-attention-dropout"),
    Change(name="--mixed-precision bf16", run={"mixed_precision": "bf16"}, exact=False, devices=("cpu", "cuda")),
)
# The settings before any change: the fastest exact ones.
_START: Mapping[str, Any] = MappingProxyType(
    {"selective_recomputation": True, "activation_checkpointing": False, "optimizer_states": "float32"}
)
MINI_BATCHES = "mini_batch_tokens"
ACTIVATION_MEMORY = "activation_memory"
# The fields in which a candidate can differ from the configuration asked for, apart from the size of the batch.
SEARCHED_FIELDS = frozenset({MINI_BATCHES, ACTIVATION_MEMORY}).union(*(change.fields for change in SETTINGS_TO_TRY))
# Those in which exact candidates can differ. Of optimizer_states, bfloat16 is not exact.
EXACT_FIELDS = frozenset({MINI_BATCHES, ACTIVATION_MEMORY, "optimizer_states_dir"}).union(
    *(change.fields for change in SETTINGS_TO_TRY if change.exact)
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of computing an optimizer step."""

    texts: int | None
    """Most full-length texts in a mini-batch. None: as configured."""
    changes: tuple[Change, ...] = ()
    activation_memory: str | None = None
    """As in the memory settings. None: as configured."""
    splits: int = 1
    """Equal batches into which the batch is cut, summed by gradient accumulation: inexact from 2 on."""

    @property
    def inexact(self) -> list[str]:
        """The names of what changes the gradient."""
        cut = [f"accumulation of {self.splits} batches in place of one"] if self.splits > 1 else []
        return [*(change.name for change in self.changes if not change.exact), *cut]

    def describe(self) -> str:
        """In words, with the names of its changes."""
        size = [] if self.texts is None else [f"mini-batches of {self.texts} text{'s' * (self.texts > 1)}"]
        cut = [f"accumulation of {self.splits} batches"] if self.splits > 1 else []
        kept = [] if self.activation_memory is None else [f"activations kept: {self.activation_memory}"]
        changes = (change.name for change in self.changes)
        return ", ".join([*size, *kept, *changes, *cut]) or "your settings, unchanged"


class Candidates:
    """The candidates for one configuration.

    Args:
        asked: the user's configuration. Its batch, accumulation and every field that is not searched are kept.
        given: searched fields that the user has set, which are kept too.
        device: kind of device.
        allow_inexact: whether candidates may change the gradient.
    """

    def __init__(self, asked: TrainConfig, *, given: Collection[str], device: str, allow_inexact: bool) -> None:
        start = {name: value for name, value in _START.items() if name not in given}
        self._asked = replace(asked, memory=replace(asked.memory, **start))
        self._allow_inexact = allow_inexact
        self.changes = [
            change
            for change in SETTINGS_TO_TRY
            if not change.fields & set(given)
            and (change.exact or allow_inexact)
            and device in change.devices
            and self.config(Candidate(None, (change,))) != self._asked
        ]
        self.sizes: Sequence[int | None] = [None]
        self.may_keep_graphs = asked.memory.gradient_caching and ACTIVATION_MEMORY not in given
        """Whether candidates may keep more activations than configured."""
        if asked.memory.gradient_caching and MINI_BATCHES not in given:
            texts = asked.batch_size * (2 + asked.negatives_per_query)
            self.sizes = [*(2**exponent for exponent in range((texts - 1).bit_length())), texts]

    def config(self, candidate: Candidate) -> TrainConfig:
        """The configuration of a candidate."""
        asked = self._asked
        memory: dict[str, Any] = {}
        run: dict[str, Any] = {}
        if candidate.texts is not None:
            memory[MINI_BATCHES] = candidate.texts * asked.max_length
        if candidate.activation_memory is not None:
            memory[ACTIVATION_MEMORY] = candidate.activation_memory
        for change in candidate.changes:
            memory |= change.memory
            run |= change.run
        if candidate.splits > 1:
            run["batch_size"] = asked.batch_size // candidate.splits
            run["gradient_accumulation_steps"] = asked.gradient_accumulation_steps * candidate.splits
        return replace(asked, **run, memory=replace(asked.memory, **memory))

    def ordered(self, changes: Collection[Change]) -> tuple[Change, ...] | None:
        """These changes in their order of trial; None if two of them set the same field."""
        fields = [name for change in changes for name in change.fields]
        if len(fields) > len(set(fields)):
            return None
        return tuple(change for change in self.changes if change in changes)

    def combinations(self) -> Iterator[tuple[Change, ...]]:
        """Every set of changes that set different fields."""
        for count in range(len(self.changes) + 1):
            for chosen in combinations(self.changes, count):
                if self.ordered(chosen) is not None:
                    yield chosen

    def splits(self) -> Sequence[int]:
        """Numbers of equal batches into which the batch can be cut; none where candidates must be exact.

        Each query keeps a negative, of its own or of its batch: without one nothing is learned.
        """
        batch_size, negatives = self._asked.batch_size, self._asked.negatives_per_query
        most = batch_size if negatives else batch_size // 2
        return [number for number in range(2, most + 1) if batch_size % number == 0] if self._allow_inexact else []
