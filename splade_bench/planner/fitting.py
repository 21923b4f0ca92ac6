"""Plans of one training with many settings, and the fastest that fits a budget on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.devices import available_devices
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, build_preset
from splade_bench.planner.calibration import calibrated_rates
from splade_bench.planner.candidates import Candidate, Candidates
from splade_bench.planner.device_models import device_model
from splade_bench.planner.fit import fit
from splade_bench.planner.plan import MemoryPlan, plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.trials import Fit, SearchEnded, Trial, kept_free_bytes
from splade_bench.training.moments import require_room
from splade_bench.units import format_bytes

# Of the memory above the runtime. With kept graphs and full-length texts, a run took up to 1.22 times its plan
# (mini-256; reports/NEGATIVE.md); with heap trimming, at most 1.03 times.
_USABLE_UNTRIMMED = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeLimit:
    """The time that a search may take: a share of the training that it is for, and so many seconds at most."""

    share: float
    at_most_s: float
    optimizer_steps: int
    """Of the training."""
    started_at_s: float
    """When planning began, as ``time.time()``: a process that plans takes seconds to start."""

    def check(self, step_times_s: list[float], longest_plan_s: float) -> None:
        """Raise :class:`SearchEnded` if another plan would take too long for a training with such steps."""
        if step_times_s:
            limit_s = min(self.at_most_s, self.share * self.optimizer_steps * min(step_times_s))
            if time.time() - self.started_at_s + longest_plan_s > limit_s:
                raise SearchEnded


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTraining:
    """A training whose memory settings may differ from plan to plan."""

    make_encoder: Callable[[], SpladeEncoder]
    """Called where tensors are fake."""
    device_type: str
    """The kind of a device, which need not be in this machine."""
    baseline_bytes: int
    """Resident memory of the runtime and of what the training reads, before the model exists."""
    budget_bytes: int | None
    active_share: float = TRAINED_ACTIVE_SHARE

    def plan(self, config: TrainConfig, lengths: Lengths, *, within_bytes: int | None) -> MemoryPlan:
        """The plan with this configuration, judged by ``within_bytes``.

        Raises:
            ConfigError: as :func:`splade_bench.planner.plan.plan`.
        """
        return plan(
            self.make_encoder,
            config,
            lengths,
            device_model(self.device_type, threads=torch.get_num_threads(), budget_bytes=self.budget_bytes),
            baseline_bytes=self.baseline_bytes,
            budget_bytes=within_bytes,
            active_share=self.active_share,
        )

    def usable_bytes(self, config: TrainConfig, within_bytes: int) -> int:
        """The memory that a plan may take so that its training stays within ``within_bytes``.

        Without heap trimming, more free memory lies between the tensors that a cached step keeps than the model of the
        allocator knows.
        """
        if self.device_type != "cpu" or config.memory.trim_heap or not config.memory.gradient_caching:
            return within_bytes
        return self.baseline_bytes + int(_USABLE_UNTRIMMED * max(0, within_bytes - self.baseline_bytes))

    def fit(
        self,
        candidates: Candidates,
        config: TrainConfig,
        lengths: Lengths,
        *,
        limit: TimeLimit | None = None,
        whole_frontier: bool = True,
    ) -> Fit:
        """The fastest of the candidates for ``config``. Step times are predicted if the device is in this machine.

        A plan's peak is that of the longest texts of ``lengths``, its work that of a usual batch. ``whole_frontier`` as
        in :func:`splade_bench.planner.fit.fit`.

        Raises:
            ConfigError: as :func:`splade_bench.planner.plan.plan`, or no folder has room for states on disk.
        """
        assert self.budget_bytes is not None
        within_bytes = max(1, self.budget_bytes - kept_free_bytes(self.budget_bytes))
        states_folder = config.memory.optimizer_states_dir
        rates = None
        if self.device_type in available_devices():
            rates = calibrated_rates(_small_encoder, torch.device(self.device_type), folder=states_folder)

        step_times_s: list[float] = []
        plan_times_s: list[float] = []

        def plan_one(candidate: Candidate, config: TrainConfig) -> Trial:
            if limit:
                limit.check(step_times_s, max(plan_times_s, default=0.0))
            start_s = time.perf_counter()
            batch = lengths if candidate.splits == 1 else lengths.cut(config.batch_size)
            made = self.plan(config, batch, within_bytes=self.usable_bytes(config, within_bytes))
            if batch.usual not in (None, batch.groups):
                usual = self.plan(config, Lengths(groups=batch.usual), within_bytes=None)
                made = replace(made, work=usual.work)
            if rates and config.memory.optimizer_states == "disk":  # the training will write there; a plan does not
                require_room(states_folder, 2 * made.by_category["parameters"])
            step_time_s = rates.seconds(made.work) if rates else None
            step_times_s.extend([] if step_time_s is None else [step_time_s])
            plan_times_s.append(time.perf_counter() - start_s)
            return Trial(candidate=candidate, config=config, plan=made, step_time_s=step_time_s)

        # A search that is ended early must not choose what is slower than the configuration itself.
        first = Candidate(None) if limit else None
        return fit(candidates, plan_one, first=first, whole_frontier=whole_frontier)


def why_nothing_fits(found: Fit, budget_bytes: int) -> str:
    """In two sentences: the smallest plan, and by how much it is too large."""
    smallest, free_bytes = found.smallest, kept_free_bytes(budget_bytes)
    over_bytes = smallest.peak_bytes + free_bytes - budget_bytes
    return (
        f"nothing fits in {format_bytes(budget_bytes)}. The smallest plan takes {format_bytes(smallest.peak_bytes)} "
        f"({smallest.candidate.describe()}). With {format_bytes(free_bytes)} kept free, that is "
        f"{format_bytes(over_bytes)} too much"
    )


def _small_encoder() -> SpladeEncoder:
    """A real model that takes little time and yet fills the caches."""
    tokenizer = train_tokenizer((), vocab_size=MODEL_PRESETS["tiny"].vocab_size)
    return build_preset("tiny", tokenizer, seed=0)
