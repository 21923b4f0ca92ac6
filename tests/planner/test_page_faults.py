"""Which pages a plan counts as taken from the system in each optimizer step."""

from __future__ import annotations

from collections import Counter

from results import MIB

from splade_bench.device.planned import PlannedDevice
from splade_bench.device.storages import LivePeak, StorageListener
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import plan_rehearsal

MAPPED = 64 * MIB


def fault_bytes(steps: int, *, kept: bool) -> int:
    """Of a run whose steps each take and free one mapping, and which keeps another to its end if ``kept``."""

    def rehearsal(device: PlannedDevice, listener: StorageListener) -> LivePeak:
        if kept:
            listener.on_allocate(9, MAPPED, "moments")
        for step in range(steps):
            listener.on_phase("batching")
            listener.on_allocate(step, MAPPED, "activations")
            listener.on_free(step)
            listener.on_step_end()
        if kept:
            listener.on_free(9)
        return LivePeak(peak_bytes=0, by_category=Counter(), phase="", operator="", by_phase={})

    made = plan_rehearsal(rehearsal, device_model("cpu", threads=1), baseline_bytes=0)
    return sum(amount for task, amount in made.work.items() if getattr(task, "kind", "") == "fault")


def test_what_a_step_gives_back_is_taken_again_by_the_next() -> None:
    assert abs(fault_bytes(1, kept=False) - MAPPED) < MIB
    assert fault_bytes(2, kept=False) == fault_bytes(1, kept=False), "those of one step"


def test_what_the_end_of_a_run_gives_back_is_not_counted() -> None:
    assert fault_bytes(2, kept=True) == fault_bytes(2, kept=False)
