"""Plans and fits for a command line, with the device, the budget and the lengths of the texts decided once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from math import inf

import torch
from typing_extensions import Self

from splade_bench.batching.sources import TripleBatches, order_bytes
from splade_bench.cli.flags import PlannedFlags
from splade_bench.cli.sources import load_corpus, load_tokenizer, planned_encoder
from splade_bench.config import TrainConfig
from splade_bench.data.records import Corpus, IndexedTriples
from splade_bench.device.devices import available_devices, memory_limit_bytes
from splade_bench.errors import ConfigError
from splade_bench.fields import size_bytes
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.machine import total_memory_bytes
from splade_bench.measure.readings import or_none
from splade_bench.measure.rss import known_rss_bytes
from splade_bench.planner.candidates import Candidates
from splade_bench.planner.fit import Fit
from splade_bench.planner.fitting import PlannedTraining, TimeLimit, why_nothing_fits
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.units import format_bytes

# Bytes read, text of up to 4 bytes a character, and its parts.
_COPIES_OF_A_RECORD = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """A training to plan, or to find settings for."""

    model_name: str
    config: TrainConfig
    device_type: str
    budget_bytes: int | None
    lengths: Lengths
    active_share: float
    data_bytes: int = 0
    """Host memory that the files of a training take during the training."""
    given: frozenset[str] = frozenset()
    """The searched fields that the command line sets, which a fit keeps."""
    allow_inexact: bool = False
    limit: TimeLimit | None = None
    """Of the search; None: it takes the time that it takes."""

    def __post_init__(self) -> None:
        memory, budget_bytes = self.config.memory, self.budget_bytes
        if budget_bytes is not None and budget_bytes < memory.activation_memory_bytes < inf:
            raise ConfigError(
                f"--activation-memory {memory.activation_memory}: more than the budget of {format_bytes(budget_bytes)}"
            )

    @classmethod
    def of(cls, command: PlannedFlags) -> Self:
        """The training of a command line. Free memory of an accelerator changes, so it is read here, once."""
        named = command.placement.device
        device_type = available_devices()[0] if named == "auto" else named
        corpus = _named_corpus(command)
        return cls(
            model_name=command.model_name,
            config=command.config,
            device_type=device_type,
            budget_bytes=resolve_budget(command.budget, device_type),
            lengths=_lengths(command, corpus, device_type),
            active_share=command.active_share,
            data_bytes=data_bytes(corpus) if corpus and command.train_file else 0,
        )

    @property
    def required_budget_bytes(self) -> int:
        """The budget; raises a :class:`ConfigError` if there is none, which a plan allows and a fit does not."""
        if self.budget_bytes is None:
            raise ConfigError(
                f"--device {self.device_type} is not in this machine, so its memory is unknown; give --budget"
            )
        return self.budget_bytes


def resolve_budget(budget: str | None, device_type: str) -> int | None:
    """The bytes of ``--budget``, or else the memory that is available now; None if the device is missing.

    Raises:
        ConfigError: ``budget`` is not a size, or is 0.
    """
    if budget is None:
        if device_type != "cpu":
            return memory_limit_bytes(device_type)
        total_bytes = or_none(total_memory_bytes)
        if total_bytes is None:
            raise ConfigError("this system does not report how much memory it has; give --budget")
        return min(container_limit_bytes() or total_bytes, total_bytes)
    return size_bytes("budget", budget)


def make_plan(request: PlanRequest) -> MemoryPlan:
    """The plan of a training.

    Raises:
        ConfigError: the budget is below the memory that any batch takes.
    """
    made = _planned(request).plan(request.config, request.lengths, within_bytes=request.budget_bytes)
    made.require_floor(request.budget_bytes)
    return made


def make_fit(request: PlanRequest, *, whole_frontier: bool = True) -> Fit:
    """The fastest settings that fit the budget. Step times are predicted if the device is in this machine.

    ``whole_frontier`` as in :func:`splade_bench.planner.fit.fit`.

    Raises:
        ConfigError: there is no budget, or it is below the memory that any batch takes.
    """
    candidates = Candidates(
        request.config, given=request.given, device=request.device_type, allow_inexact=request.allow_inexact
    )
    budget_bytes = request.required_budget_bytes
    found = _planned(request).fit(
        candidates, request.config, request.lengths, limit=request.limit, whole_frontier=whole_frontier
    )
    if found.chosen is None:
        found.smallest.plan.require_floor(budget_bytes)
    return found


def nothing_fits(request: PlanRequest, found: Fit) -> str:
    """Why nothing fits, and what to change."""
    more = "" if request.allow_inexact else ", or add --allow-inexact"
    why = why_nothing_fits(found, request.required_budget_bytes)
    return f"{why}. Choose a smaller --max-length or --batch-size{more}"


def _planned(request: PlanRequest) -> PlannedTraining:
    """What is planned. Runtime memory is read here, before plans and timings add to it."""
    make_encoder = planned_encoder(request.model_name)
    runtime_bytes = known_rss_bytes()
    if runtime_bytes is None:
        raise ConfigError("this system does not report the memory of a process, so nothing can be planned")
    return PlannedTraining(
        make_encoder=make_encoder,
        device_type=request.device_type,
        baseline_bytes=runtime_bytes + request.data_bytes,
        budget_bytes=request.budget_bytes,
        active_share=request.active_share,
    )


def data_bytes(corpus: Corpus) -> int:
    """Host memory that a corpus takes while it is trained on: see :class:`TripleBatches`, and the held-out texts."""
    taken_bytes = order_bytes(corpus.triples)
    if isinstance(corpus.triples, IndexedTriples):
        taken_bytes += _COPIES_OF_A_RECORD * corpus.triples.largest_bytes
    if corpus.test:
        texts = chain(corpus.test.queries.values(), corpus.test.corpus.values())
        taken_bytes += sum(map(sys.getsizeof, texts))
    return taken_bytes


def _named_corpus(command: PlannedFlags) -> Corpus | None:
    """The corpus of the command line, with the same errors as ``train``; None if it is not needed."""
    if command.train_file is None and command.lengths == "full":
        return None
    return load_corpus(
        command.train_file,
        command.val_file,
        need_negatives=command.config.negatives_per_query > 0,
        skip_bad_records=command.faults.skip_bad_records,
    )


def _lengths(command: PlannedFlags, corpus: Corpus | None, device_type: str) -> Lengths:
    if corpus is None:
        return Lengths.full(command.config)
    tokenizer = load_tokenizer(command.model_name, corpus)
    source = TripleBatches.for_config(corpus.triples, tokenizer, command.config, torch.device(device_type))
    lengths = Lengths.full(command.config) if command.lengths == "full" else Lengths.widest(source)
    return lengths.with_usual(source)
