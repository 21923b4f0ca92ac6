"""The peak memory of a training run, before any of it is allocated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedDevice
from splade_bench.device.storages import Category, LivePeak, StorageListener
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.device_models import DeviceModel
from splade_bench.planner.rehearsal import Lengths, rehearse
from splade_bench.planner.work import CountedWork, Work
from splade_bench.units import format_bytes

# The categories that have the same size for every batch.
_FIXED_CATEGORIES: Sequence[Category] = ("parameters", "gradients", "optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasePeak:
    """The peak of one phase of an optimizer step. A phase can come several times in a step."""

    phase: str
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedAllocation:
    """A storage that an operator allocates."""

    operator: str
    phase: str
    size_bytes: int
    reserved_bytes: int
    """What the allocator had reserved before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """The predicted peak of a run, its parts, and the work of an optimizer step."""

    device: str
    allocator: str
    calibrated: bool
    """Whether the device's model was compared with measurements on such a device."""
    peak_bytes: int
    """CPU: resident memory of the process, with its runtime. Accelerators: memory that the allocator reserves."""
    baseline_bytes: int
    """Part of the peak: the runtime, before the model exists. 0 on an accelerator."""
    workspace_bytes: int
    """Part of the peak: what libraries keep for themselves."""
    live_peak_bytes: int
    """Most bytes of tensors that live at the same time."""
    by_category: Mapping[Category, int]
    """The parts of ``live_peak_bytes``."""
    peak_phase: str
    peak_op: str
    """The operator whose result made ``live_peak_bytes``."""
    timeline: Sequence[PhasePeak]
    """The phases of an optimizer step in order."""
    budget_bytes: int | None
    fits: bool | None
    """Whether the peak is within the budget; None without a budget."""
    first_failure: PlannedAllocation | None
    """The first allocation that exceeds the budget."""
    active_share: float
    """Assumed share of the vectors' entries that are active."""
    work: Work
    """Of an optimizer step."""

    @property
    def fixed_parts(self) -> Mapping[str, int]:
        """The parts of the peak that have the same size for every batch, in bytes."""
        runtime = {"the runtime": self.baseline_bytes + self.workspace_bytes}
        return runtime | {name: self.by_category.get(name, 0) for name in _FIXED_CATEGORIES}

    @property
    def fixed_bytes(self) -> int:
        """Their sum."""
        return sum(self.fixed_parts.values())

    def require_floor(self, budget_bytes: int | None) -> None:
        """Check that a budget has room for the parts that every batch needs.

        Raises:
            ConfigError: the budget is smaller.
        """
        if budget_bytes is None or budget_bytes >= self.fixed_bytes:
            return
        parts = ", ".join(
            f"{format_bytes(size_bytes)} {name}" for name, size_bytes in self.fixed_parts.items() if size_bytes
        )
        raise ConfigError(
            f"--budget {format_bytes(budget_bytes)}: too small: every batch size needs at least "
            f"{format_bytes(self.fixed_bytes)} ({parts}); give a larger budget, choose a smaller model, or add "
            "--optimizer-states disk"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the fields, without the work."""
        record = asdict(replace(self, work=Counter()))
        del record["work"]
        return record


def plan(
    make_encoder: Callable[[], SpladeEncoder],
    config: TrainConfig,
    lengths: Lengths,
    model: DeviceModel,
    *,
    baseline_bytes: int,
    budget_bytes: int | None = None,
    active_share: float = TRAINED_ACTIVE_SHARE,
) -> MemoryPlan:
    """The plan of a run with this configuration, for the batch with these lengths.

    ``make_encoder`` is called where tensors are fake. ``model`` must be new: its allocator keeps what it was told.
    ``baseline_bytes`` is the resident memory of the runtime, counted on a CPU only. ``active_share`` is the share of
    the vectors' entries that are active, 0 to 1.

    Raises:
        ConfigError: the model cannot take texts of ``max_length``, or cannot be trained with this configuration.

    Memory: no tensor of the run; some 50 MiB for the operators of a BERT-base.
    """
    if not 0 <= active_share <= 1:
        raise ConfigError(f"--active-share {active_share}: must be between 0 and 1")

    def rehearsal(device: PlannedDevice, listener: StorageListener) -> LivePeak:
        return rehearse(make_encoder, config, lengths, device=device, active_share=active_share, listener=listener)

    return plan_rehearsal(
        rehearsal, model, baseline_bytes=baseline_bytes, budget_bytes=budget_bytes, active_share=active_share
    )


def plan_rehearsal(
    rehearsal: Callable[[PlannedDevice, StorageListener], LivePeak],
    model: DeviceModel,
    *,
    baseline_bytes: int,
    budget_bytes: int | None = None,
    active_share: float = TRAINED_ACTIVE_SHARE,
) -> MemoryPlan:
    """The plan of any run on fake tensors: ``rehearsal`` runs it on a device and reports storages to a listener."""
    baseline_bytes = 0 if model.is_accelerator else baseline_bytes
    work = CountedWork()
    reserved = _ReservedMemory(model, work, baseline_bytes=baseline_bytes, budget_bytes=budget_bytes)
    live = rehearsal(PlannedDevice(model.type, model.allocator, work), reserved)
    return MemoryPlan(
        device=model.type,
        allocator=model.allocator.name,
        calibrated=model.calibrated,
        peak_bytes=reserved.peak_bytes,
        baseline_bytes=baseline_bytes,
        workspace_bytes=reserved.peak_workspace_bytes,
        live_peak_bytes=live.peak_bytes,
        by_category=live.by_category,
        peak_phase=live.phase,
        peak_op=live.operator,
        timeline=reserved.timeline,
        budget_bytes=budget_bytes,
        fits=None if budget_bytes is None else reserved.first_failure is None,
        first_failure=reserved.first_failure,
        active_share=active_share,
        work=work.work,
    )


class _ReservedMemory:
    """Reports every storage of a run to the model of an allocator, and keeps the peaks of what it reserves."""

    def __init__(self, model: DeviceModel, work: CountedWork, *, baseline_bytes: int, budget_bytes: int | None) -> None:
        self._model = model
        self._work = work
        self._baseline_bytes = baseline_bytes
        self._budget_bytes = budget_bytes
        self._phase = "setup"
        self._in_step = False  # the end of a run frees what every step of it keeps
        self._seen_bytes = 0  # reserved, when it was last looked at
        self.timeline: list[PhasePeak] = []  # of the last optimizer step, whose batch has the planned lengths
        self.peak_bytes = self.peak_workspace_bytes = 0
        self.first_failure: PlannedAllocation | None = None

    def on_phase(self, phase: str) -> None:
        self._count_returned()
        if phase == "batching":  # an optimizer step begins
            self._in_step = True
            self._work.clear()
            self.timeline.clear()
        self._phase = phase
        self.timeline.append(PhasePeak(phase=phase, peak_bytes=self._total_bytes))

    def on_allocate(self, storage: int, size_bytes: int, operator: str) -> None:
        self._count_returned()
        allocator = self._model.allocator
        reserved_bytes = allocator.reserved_bytes
        allocator.allocate(storage, size_bytes)
        if self._fails() and self._model.is_accelerator:
            allocator.trim()
        if self._fails():
            self.first_failure = PlannedAllocation(
                operator=operator, phase=self._phase, size_bytes=size_bytes, reserved_bytes=reserved_bytes
            )
        total_bytes = self._total_bytes
        if self.timeline and total_bytes > self.timeline[-1].peak_bytes:
            self.timeline[-1] = PhasePeak(phase=self._phase, peak_bytes=total_bytes)
        if total_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_workspace_bytes = total_bytes, self._workspace_bytes
        self._seen_bytes = allocator.reserved_bytes

    def on_step_end(self) -> None:
        self._count_returned()
        self._in_step = False

    def on_free(self, storage: int) -> None:
        self._model.allocator.free(storage)
        self._count_returned()

    def _count_returned(self) -> None:
        """Count what the allocator has returned to the system as page faults: the next step takes it again.

        What a step takes and keeps has its faults in the run's first steps only.
        """
        reserved_bytes = self._model.allocator.reserved_bytes
        if self._in_step and reserved_bytes < self._seen_bytes:
            self._work.add("fault", self._seen_bytes - reserved_bytes)
        self._seen_bytes = reserved_bytes

    @property
    def _workspace_bytes(self) -> int:
        return self._model.workspace_bytes(self._work.largest_operand_bytes)

    @property
    def _total_bytes(self) -> int:
        return self._baseline_bytes + self._workspace_bytes + self._model.allocator.reserved_bytes

    def _fails(self) -> bool:
        """Whether the budget is exceeded for the first time."""
        exceeds = self._budget_bytes is not None and self._total_bytes > self._budget_bytes
        return exceeds and self.first_failure is None
