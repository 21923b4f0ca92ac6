"""Peak memory of a training run, before anything of it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedDevice
from splade_bench.device.storages import Category, LivePeak, StorageListener
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.device_models import DeviceModel
from splade_bench.planner.rehearsal import Lengths, rehearse
from splade_bench.planner.work import CountedWork
from splade_bench.units import format_bytes

# What stays whatever the batch is.
_STANDING: Sequence[Category] = ("parameters", "gradients", "optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasePeak:
    """The most that a stretch of one phase takes."""

    phase: str
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedAllocation:
    """A storage that an operator makes."""

    operator: str
    phase: str
    size_bytes: int
    reserved_bytes: int
    """What was reserved when it was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """What a run will take at its peak, and of what it consists."""

    device: str
    allocator: str
    calibrated: bool
    """Whether the device's model has been held against measurements on such a device."""
    peak_bytes: int
    """On a CPU of the process's resident memory, its runtime included; else of what the allocator reserves."""
    baseline_bytes: int
    """Of that: the runtime, before a model is there; 0 on an accelerator, whose pool has none."""
    workspace_bytes: int
    """Of that: what operators and libraries keep for themselves."""
    live_peak_bytes: int
    """Tensors at the moment when most of them live."""
    by_category: Mapping[Category, int]
    """What those tensors are for."""
    peak_phase: str
    peak_op: str
    """The operator that makes them the most."""
    timeline: Sequence[PhasePeak]
    """The phases of an optimizer step as they follow each other, each with its own peak."""
    budget_bytes: int | None
    fits: bool | None
    """Whether the peak stays within the budget; None without one."""
    first_failure: PlannedAllocation | None
    """The first allocation for which the budget has no room."""
    active_share: float
    """Assumed share of the vectors' entries that are active."""

    @property
    def standing_bytes(self) -> Mapping[str, int]:
        """Of the peak, what is there whatever the batch: the runtime, and by category."""
        parts = {"the runtime": self.baseline_bytes + self.workspace_bytes}
        return parts | {name: self.by_category.get(name, 0) for name in _STANDING}

    def require_floor(self) -> None:
        """Raise a :class:`ConfigError` if the budget is below what is there whatever the batch."""
        floor_bytes = sum(self.standing_bytes.values())
        if self.budget_bytes is None or self.budget_bytes >= floor_bytes:
            return
        listed = ", ".join(
            f"{format_bytes(size_bytes)} {name}" for name, size_bytes in self.standing_bytes.items() if size_bytes
        )
        raise ConfigError(
            f"--budget {format_bytes(self.budget_bytes)}: below the {format_bytes(floor_bytes)} that any batch takes "
            f"({listed}); give more, or choose a smaller --model-name or --optimizer-states disk"
        )


def plan(
    make_encoder: Callable[[], SpladeEncoder],
    config: TrainConfig,
    lengths: Lengths,
    model: DeviceModel,
    *,
    baseline_bytes: int,
    budget_bytes: int | None = None,
    active_share: float = TRAINED_ACTIVE_SHARE,
    counted: CountedWork | None = None,
) -> MemoryPlan:
    """The plan of a run with this configuration whose largest batch has these lengths.

    ``make_encoder`` is called where tensors are fake; ``baseline_bytes``, the resident memory of the runtime, counts on
    a CPU only; ``active_share`` is of the vectors' entries; ``counted`` is left with the work of an optimizer step.

    Raises:
        ConfigError: the model cannot take texts of ``max_length``, or be trained with this configuration.

    Memory: no tensor of the run; some 50 MiB for the operators of a BERT-base.
    """
    if not 0 <= active_share <= 1:
        raise ConfigError(f"--active-share {active_share}: must be between 0 and 1")
    counted = counted or CountedWork()

    def rehearsal(device: PlannedDevice, listener: StorageListener) -> LivePeak:
        return rehearse(
            make_encoder, config, lengths, device=device, active_share=active_share, listener=listener, counted=counted
        )

    return plan_rehearsal(
        rehearsal,
        model,
        baseline_bytes=baseline_bytes,
        budget_bytes=budget_bytes,
        active_share=active_share,
        counted=counted,
    )


def plan_rehearsal(
    rehearsal: Callable[[PlannedDevice, StorageListener], LivePeak],
    model: DeviceModel,
    *,
    baseline_bytes: int,
    budget_bytes: int | None = None,
    counted: CountedWork,
    active_share: float = TRAINED_ACTIVE_SHARE,
) -> MemoryPlan:
    """The plan of whatever ``rehearsal`` runs on fake tensors; it is given the device and whom to tell of storages."""
    baseline_bytes = baseline_bytes if model.counts_runtime else 0
    watch = _Watch(model, counted, baseline_bytes=baseline_bytes, budget_bytes=budget_bytes)
    live = rehearsal(PlannedDevice(model.type, model.allocator, counted), watch)
    return MemoryPlan(
        device=model.type,
        allocator=model.allocator.name,
        calibrated=model.calibrated,
        peak_bytes=watch.peak_bytes,
        baseline_bytes=baseline_bytes,
        workspace_bytes=watch.workspace_bytes,
        live_peak_bytes=live.peak_bytes,
        by_category=live.by_category,
        peak_phase=live.phase,
        peak_op=live.operator,
        timeline=watch.last_step,
        budget_bytes=budget_bytes,
        fits=None if budget_bytes is None else watch.first_failure is None,
        first_failure=watch.first_failure,
        active_share=active_share,
    )


class _Watch:
    """Tells a device's allocator of every storage, and notes what is taken then."""

    def __init__(
        self, model: DeviceModel, counted: CountedWork, *, baseline_bytes: int, budget_bytes: int | None
    ) -> None:
        self._model = model
        self._allocator = model.allocator
        self._counted = counted
        self._baseline_bytes = baseline_bytes
        self._budget_bytes = budget_bytes
        self._stretches: list[PhasePeak] = []
        self._phase = "setup"
        self.peak_bytes = self.workspace_bytes = 0
        self.first_failure: PlannedAllocation | None = None

    def on_phase(self, phase: str) -> None:
        self._phase = phase
        self._stretches.append(PhasePeak(phase=phase, peak_bytes=self._taken_bytes))

    def on_allocate(self, storage: int, size_bytes: int, operator: str) -> None:
        reserved_bytes = self._allocator.reserved_bytes
        self._allocator.allocate(storage, size_bytes)
        if (fresh_bytes := self._allocator.reserved_bytes - reserved_bytes) > 0:
            self._counted.add("fault", fresh_bytes)
        if self._exceeds_budget():
            if self._model.releases_cache:
                self._allocator.trim()
            if self._exceeds_budget():
                self.first_failure = PlannedAllocation(
                    operator=operator, phase=self._phase, size_bytes=size_bytes, reserved_bytes=reserved_bytes
                )
        taken_bytes = self._taken_bytes
        if self._stretches and taken_bytes > self._stretches[-1].peak_bytes:
            self._stretches[-1] = PhasePeak(phase=self._phase, peak_bytes=taken_bytes)
        if taken_bytes > self.peak_bytes:
            self.peak_bytes, self.workspace_bytes = taken_bytes, self._packed_bytes

    def on_free(self, storage: int) -> None:
        self._allocator.free(storage)

    @property
    def last_step(self) -> Sequence[PhasePeak]:
        """The stretches of the last optimizer step, which the batch of the planned lengths is in."""
        starts = [number for number, stretch in enumerate(self._stretches) if stretch.phase == "batching"]
        return self._stretches[starts[-1] :] if starts else self._stretches

    @property
    def _packed_bytes(self) -> int:
        return self._model.workspace_bytes(self._counted.largest_operand_bytes)

    @property
    def _taken_bytes(self) -> int:
        return self._baseline_bytes + self._packed_bytes + self._allocator.reserved_bytes

    def _exceeds_budget(self) -> bool:
        over = self._budget_bytes is not None and self._taken_bytes > self._budget_bytes
        return over and self.first_failure is None
