"""Records of measurements: one JSON line per cell, call, head, plan or campaign, appended as soon as it is done.

Bytes are integers, times are seconds, and what was not measured is null, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from typing_extensions import NotRequired, Self, TypedDict

from splade_bench.config import MixedPrecision
from splade_bench.errors import DataError
from splade_bench.files import append_line, not_written, read_lines
from splade_bench.grid.cell import ARTICLE_TRAINER, OWN_TRAINER, Cell
from splade_bench.json_records import parse_record
from splade_bench.results.accelerator import AcceleratorResult
from splade_bench.results.head import HeadResult
from splade_bench.results.plan import PlanResult
from splade_bench.results.reliability import ReliabilityResult
from splade_bench.results.result import SCHEMA_VERSION as SCHEMA_VERSION
from splade_bench.results.result import Int as Int
from splade_bench.results.result import Result as Result

CALIBRATION = "calibration"
"""First word in the name of a call that only checks that the probes read a known amount."""
Status = Literal["ok", "oom", "killed", "timeout", "nan", "error"]
# Another run would end in the same way. A run that was killed, or failed for an unknown reason, is repeated.
SETTLED: Sequence[Status] = ("ok", "oom", "nan", "timeout")


class AllocationSite(TypedDict):
    """A place in the code, and the heap memory that was allocated there."""

    site: str
    size_bytes: Int
    allocations: NotRequired[Int]


class MemorySample(TypedDict):
    """Resident memory at a moment of the measured part."""

    time_s: float
    rss_bytes: Int
    phase: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement(Result):
    """The figures of one process. Running out of memory is a result too."""

    status: Status
    error: str | None = None
    """One line: why the status is not ok."""
    phase: str | None = None
    """The part of the run in which it ended early."""
    exit_code: Int | None = None
    """Exit code of a process that ended without a result."""
    exit_signal: Int | None = None
    """The signal that ended it."""
    failed_allocation_bytes: Int | None = None
    """The size of the allocation that failed."""
    memory_limit_bytes: Int | None = None
    """The limit on resident memory, the runtime included."""
    wall_time_s: float | None = None
    """Time of the measured part: the training loop, or the call. After a cell's timeout: until it was ended."""
    baseline_rss_bytes: Int | None = None
    """The runtime memory: resident memory after imports and, for a cell, a warm-up on a toy model."""
    peak_rss_bytes: Int | None = None
    """The kernel's high-water mark from then to the end of the measured part, runtime included. Of a call with child
    processes: the largest sum over all of them, sampled."""
    peak_rss_source: str | None = None
    child_processes: Int | None = None
    """Child processes that the call had. Peak RSS counts them, unless its source says otherwise; no other figure does.
    null: not looked for, as in a cell."""
    sampled_peak_rss_bytes: Int | None = None
    """The same as a thread sees it that samples every 10 ms, if a timeline was requested."""
    sampler_cpu_time_s: float | None = None
    """The part of ``cpu_time_s`` that the sampling thread took."""
    memory_timeline: list[MemorySample] | None = None
    cpu_time_s: float | None = None
    """User and system time of all threads during the measured part."""
    others_cpu_time_s: float | None = None
    """Processor time that all other processes took meanwhile, and the host of a virtual machine."""
    gemm_flops_per_s: float | None = None
    """Rate of a large product in float32 on the CPU, in a cell's process right after: equal sizes within a workload."""
    major_faults: Int | None = None
    """Pages read from disk during the measured part: swapped out, or of a mapped file."""
    swapped_bytes: Int | None = None
    """Growth of the process's swapped memory during the measured part."""
    device_peak_allocated_bytes: Int | None = None
    """Peak memory of live tensors on the accelerator."""
    device_peak_reserved_bytes: Int | None = None
    """Peak memory that the accelerator's allocator reserved."""
    device_peak_source: str | None = None
    pinned_baseline_rss_bytes: Int | None = None
    pinned_peak_rss_bytes: Int | None = None
    """Peak RSS if every tensor of 256 KiB has its own mapping: repeatable, but not what a user gets. A memory pass; in
    a cell, memory passes run two optimizer steps of the widest batch."""
    live_peak_bytes: Int | None = None
    """Peak bytes of live tensors, a cell's model included. A memory pass."""
    live_peak_by_category: dict[str, Int] | None = None
    live_peak_by_phase: dict[str, Int] | None = None
    live_peak_phase: str | None = None
    live_peak_operator: str | None = None
    memray_peak_bytes: Int | None = None
    """Peak of the heap minus what was loaded before. A memory pass."""
    memray_allocations: Int | None = None
    memray_allocated_bytes: Int | None = None
    """Sum of all allocations, freed ones included."""
    memray_top_sites: list[AllocationSite] | None = None
    """The largest at the peak."""
    pass_errors: dict[str, str] | None = None
    """Memory passes that failed, each with status and reason in one line; their figures are null."""

    def figure(self, name: str) -> float | None:
        """A figure by the name of its field or retrieval metric; None where it was not measured."""
        value: float | None = getattr(self, name, None)
        return (getattr(self, "metrics", None) or {}).get(name) if value is None else value


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult(Measurement):
    """A function that was called in a fresh process."""

    name: str
    value: Any = None
    """Its return value, if JSON can hold it."""
    pass_differences: dict[str, str] | None = None
    """Memory passes in which it returned another value, so may have done other work; each with both values."""
    record_type: Literal["call"] = "call"

    @property
    def is_calibration(self) -> bool:
        """Whether it only checks that the probes read a known amount."""
        return self.name.startswith(CALIBRATION)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult(Measurement):
    """A cell. One that ran out of memory has the figures that were measured until then."""

    cell_id: str
    workload: str
    device: str
    batch_size: Int
    gradient_accumulation_steps: Int
    memory_mode: str
    max_steps: Int | None
    seed: int
    attention_dropout: float = 0.0
    mixed_precision: MixedPrecision = "no"
    trainer: str = OWN_TRAINER
    trainer_size: Int | None = None
    memory_budget_bytes: Int | None = None
    processes: Int = 1
    busy_processes: Int = 0
    round: Int = 0
    peaks_by_rank: list[Int | None] | None = None
    """Of several processes, the peak of each rank in bytes: ``device_peak_allocated_bytes`` on an accelerator, else
    ``peak_rss_bytes``. Times, and all other sizes of memory, are those of rank 0; ``cpu_time_s``, ``major_faults`` and
    ``swapped_bytes`` are those of all ranks."""
    all_ranks_peak_bytes: Int | None = None
    """Their sum. A page of a library that several ranks share counts in each."""
    step_time_s: float | None = None
    """Median seconds per optimizer step, without the first ones that the workload leaves out."""
    step_time_min_s: float | None = None
    step_time_max_s: float | None = None
    final_loss: float | None = None
    """Mean loss of the last tenth of the optimizer steps; depends on the batch size."""
    planned_peak_rss_bytes: Int | None = None
    """The planner's prediction for two optimizer steps of the widest batch: of ``peak_rss_bytes``, or on an accelerator
    of ``device_peak_reserved_bytes``. A memory pass."""
    planned_baseline_rss_bytes: Int | None = None
    """The runtime memory in the prediction."""
    planned_live_peak_bytes: Int | None = None
    memory_settings: dict[str, Any] | None = None
    """The settings that fit chose for the budget, by their names in :class:`MemoryConfig`. The plan of a cell with a
    budget is that of these settings."""
    parameter_bytes: Int | None = None
    """Size of the trained weights. Gradients have the same size, and AdamW's moments twice that."""
    active_share: float | None = None
    """Share of active entries in the document vectors of the last optimizer step."""
    step_flops: Int | None = None
    """Floating-point operations of a cached step on the last batch, with only the recomputation that caching needs."""
    direct_step_flops: Int | None = None
    """The same without any recomputation: of a step that keeps the graphs of the whole batch."""
    validation_loss: float | None = None
    """Loss on fixed held-out batches of 32, which can be compared across batch sizes."""
    losses: list[float | None] | None = None
    """Loss of each optimizer step; null where it was not finite."""
    metrics: dict[str, float | None] | None = None
    """Retrieval metrics on held-out queries after training."""
    metrics_before: dict[str, float | None] | None = None
    """The same before training."""
    optimizer_steps: Int | None = None
    queries_seen: Int | None = None
    corpus_sha256: str | None = None

    @property
    def cell(self) -> Cell:
        """The cell that was measured."""
        return Cell(**{known.name: getattr(self, known.name) for known in fields(Cell)})

    @classmethod
    def of_cell(cls, cell: Cell, *, status: Status, **measured: Any) -> Self:
        """The result of ``cell`` with the measured fields."""
        return cls(cell_id=cell.cell_id, **cell.to_dict(), status=status, **measured)


# A record without a record_type is a cell's.
_KINDS: Mapping[str, type[Result]] = {
    "head": HeadResult,
    "call": CallResult,
    "plan": PlanResult,
    "reliability": ReliabilityResult,
    "accelerator": AcceleratorResult,
}


def _parse(record: Any) -> Result:
    if not isinstance(record, dict) or "schema_version" not in record:
        raise ValueError("is not a result record (no schema_version)")
    if record["schema_version"] != SCHEMA_VERSION:
        versions = f"schema_version {record['schema_version']}; this one reads {SCHEMA_VERSION}"
        raise ValueError(f"was written by another version of splade-bench ({versions}); measure again")
    kind = _KINDS.get(str(record.get("record_type")))
    return parse_record(record, kind) if kind else _with_cell_id(parse_record(record, CellResult))


def _with_cell_id(result: CellResult) -> CellResult:
    """Rename what earlier versions wrote: the trainer ``article``, and cell ids that two cells could share."""
    cell = result.cell
    if cell.trainer == "article":
        cell = replace(cell, trainer=ARTICLE_TRAINER)
    return replace(result, trainer=cell.trainer, cell_id=cell.cell_id)


def append_result(path: Path, result: Result) -> None:
    """Append one line and wait until it is on the disk; other processes may append to the same file.

    Raises:
        DataError: it cannot be written. The file is then as it was, or ends in a torn line.
    """
    try:
        append_line(path, result.to_json())
    except OSError as error:
        raise DataError(f"{path}: a result {not_written(path, error)}") from error


def read_results(paths: Iterable[Path]) -> list[Result]:
    """The records of results files, in order. A torn last line, left by a killed process, is skipped.

    Raises:
        DataError: a file cannot be read, or a line is not a record of this schema.
    """
    results: list[Result] = []
    for path in paths:
        for number, record in read_lines(path):
            try:
                results.append(_parse(record))
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from error
    return results
