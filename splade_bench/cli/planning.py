"""Plans and fits for a command line, with the device, the budget and the lengths of the texts decided once."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch

from splade_bench.batching.sources import TripleBatches
from splade_bench.cli.flags import PlannedFlags
from splade_bench.cli.sources import load_corpus, load_tokenizer, planned_encoder
from splade_bench.config import TrainConfig
from splade_bench.device.devices import available_devices, memory_limit_bytes
from splade_bench.errors import ConfigError
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.machine import total_memory_bytes
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.planner.calibration import calibrated_rates
from splade_bench.planner.candidates import Candidate, Candidates
from splade_bench.planner.device_models import device_model
from splade_bench.planner.fit import Fit, Trial, Try, fit, kept_free_bytes
from splade_bench.planner.plan import MemoryPlan, plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training.moments import require_room
from splade_bench.units import format_bytes, parse_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTraining:
    """A training to plan."""

    model_name: str
    config: TrainConfig
    device_type: str
    lengths: Lengths
    active_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRequest:
    """A training whose settings are to be chosen."""

    training: PlannedTraining
    budget_bytes: int
    given: frozenset[str]
    """The searched fields that the command line sets, which are kept."""
    allow_inexact: bool


def planned_training(command: PlannedFlags) -> PlannedTraining:
    """The training that a command line describes."""
    named = command.placement.device
    device_type = available_devices()[0] if named == "auto" else named
    return PlannedTraining(
        model_name=command.model_name,
        config=command.config,
        device_type=device_type,
        lengths=Lengths.full(command.config) if command.lengths == "full" else _lengths_of_data(command, device_type),
        active_share=command.active_share,
    )


def resolve_budget(budget: str | None, device_type: str) -> int | None:
    """The bytes of ``--budget``, or else the memory that is available now; None if the device is not in this machine.

    Free memory of an accelerator changes. Call this once, and pass the result on.

    Raises:
        ConfigError: ``budget`` is not a size, or is 0.
    """
    if budget is None:
        if device_type != "cpu":
            return memory_limit_bytes(device_type)
        return min(container_limit_bytes() or total_memory_bytes(), total_memory_bytes())
    try:
        budget_bytes = parse_bytes(budget)
    except ValueError as error:
        raise ConfigError(f"--budget {error}") from error
    if not budget_bytes:
        raise ConfigError(f"--budget {budget}: must be above 0")
    return budget_bytes


def require_budget(budget: str | None, device_type: str) -> int:
    """:func:`resolve_budget` where a plan cannot go without one.

    Raises:
        ConfigError: there is no budget.
    """
    budget_bytes = resolve_budget(budget, device_type)
    if budget_bytes is None:
        raise ConfigError(f"--device {device_type} is not in this machine, so its memory is unknown; give --budget")
    return budget_bytes


def make_plan(training: PlannedTraining, budget_bytes: int | None) -> MemoryPlan:
    """The plan of a training.

    Raises:
        ConfigError: the budget is below the memory that any batch takes.
    """
    made = plan(
        planned_encoder(training.model_name),
        training.config,
        training.lengths,
        device_model(training.device_type, threads=torch.get_num_threads(), budget_bytes=budget_bytes),
        baseline_bytes=_runtime_bytes(),
        budget_bytes=budget_bytes,
        active_share=training.active_share,
    )
    made.require_floor(budget_bytes)
    return made


def make_fit(request: FitRequest) -> Fit:
    """The fastest settings that fit the budget. Step times are predicted if the device is in this machine.

    Raises:
        ConfigError: the budget is below the memory that any batch takes.
    """
    training = request.training
    candidates = Candidates(
        training.config, given=request.given, device=training.device_type, allow_inexact=request.allow_inexact
    )
    found = fit(candidates, _plan_one(request))
    if found.chosen is None:
        found.smallest.plan.require_floor(request.budget_bytes)
    return found


def nothing_fits(request: FitRequest, found: Fit) -> str:
    """Why nothing fits, and what to change."""
    smallest, budget_bytes = found.smallest, request.budget_bytes
    free_bytes = kept_free_bytes(budget_bytes)
    over_bytes = smallest.peak_bytes + free_bytes - budget_bytes
    more = "" if request.allow_inexact else ", or add --allow-inexact"
    return (
        f"nothing fits in {format_bytes(budget_bytes)}: the smallest plan takes "
        f"{format_bytes(smallest.peak_bytes)} ({smallest.candidate.describe()}) and must leave "
        f"{format_bytes(free_bytes)} free, which is {format_bytes(over_bytes)} too much; choose a smaller --max-length "
        f"or --batch-size{more}"
    )


def _plan_one(request: FitRequest) -> Try:
    training, budget_bytes = request.training, request.budget_bytes
    device_type, lengths = training.device_type, training.lengths
    states_folder = training.config.memory.optimizer_states_dir
    make_encoder = planned_encoder(training.model_name)
    runtime_bytes = _runtime_bytes()  # before plans and timing add to it
    rates = None
    if device_type in available_devices():
        rates = calibrated_rates(planned_encoder("tiny"), torch.device(device_type), folder=states_folder)

    def plan_one(candidate: Candidate, config: TrainConfig) -> Trial:
        made = plan(
            make_encoder,
            config,
            lengths if candidate.splits == 1 else lengths.longest(config.batch_size),
            device_model(device_type, threads=torch.get_num_threads(), budget_bytes=budget_bytes),
            baseline_bytes=runtime_bytes,
            budget_bytes=max(1, budget_bytes - kept_free_bytes(budget_bytes)),
            active_share=training.active_share,
        )
        if rates and config.memory.optimizer_states == "disk":  # the training will write there; a plan does not
            require_room(states_folder, 2 * made.by_category["parameters"])
        step_time_s = rates.seconds(made.work) if rates else None
        return Trial(candidate=candidate, config=config, plan=made, step_time_s=step_time_s)

    return plan_one


def _runtime_bytes() -> int:
    """Runtime memory of a training, whose imports are more than those of a plan."""
    importlib.import_module("splade_bench.cli.training_run")
    return current_rss_bytes()


def _lengths_of_data(command: PlannedFlags, device_type: str) -> Lengths:
    corpus = load_corpus(command.train_file, command.val_file, need_negatives=command.config.negatives_per_query > 0)
    tokenizer = load_tokenizer(command.model_name, corpus)
    device = torch.device(device_type)
    return Lengths.widest(TripleBatches.for_config(corpus.triples, tokenizer, command.config, device))
