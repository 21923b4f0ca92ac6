"""What a step asks of its tensors, in earnest and in a plan, and that it asks nothing anywhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import splade_bench
from splade_bench.device.planned import PlannedDevice, planning_for
from splade_bench.device.reads import nonzero, read_numbers, unique_counts
from splade_bench.planner.allocators import LiveAllocator

PACKAGE = Path(splade_bench.__file__).parent
# What the step is made of. Validation and the presets are not part of it: they read what they like.
STEP = (
    *("training/losses.py", "batching/mini_batches.py", "model/attention.py", "model/dropout.py", "model/encoder.py"),
    *("model/gradients.py", "model/head.py", "model/lean.py", "model/rng.py", "model/row_sums.py"),
    *("training/clipping.py", "training/gradcache.py", "training/loss_scale.py", "training/moments.py"),
    *("training/optimizer.py", "training/schedules.py", "training/step.py", "training/trainer.py"),
)
HOST_READS = re.compile(
    r"\.(item|tolist|numpy|nonzero|cpu|is_nonzero)\(|\btorch\.(equal|allclose|nonzero|argwhere|unique\w*|bincount)\("
    r"|\b(float|int|bool)\([\w.]*(loss|norm|terms|reps|mask)\b"
)


def test_the_step_reads_no_tensor_elsewhere() -> None:
    reads = {
        f"{name}:{number}: {line.strip()}"
        for name in STEP
        for number, line in enumerate((PACKAGE / name).read_text(encoding="utf-8").splitlines(), start=1)
        if HOST_READS.search(line)
    }

    assert reads == set()
    assert HOST_READS.search((PACKAGE / "device" / "reads.py").read_text(encoding="utf-8"))


def test_every_file_of_the_step_is_looked_at() -> None:
    made = {f"{folder}/{path.name}" for folder in ("model", "training") for path in (PACKAGE / folder).glob("*.py")}

    assert made - set(STEP) == {
        *("model/__init__.py", "model/presets.py", "training/__init__.py", "training/validation.py"),
    }


def test_numbers_are_read_at_once() -> None:
    assert read_numbers(torch.tensor([1.5, -2.0]), planned=[0.0, 0.0]) == [1.5, -2.0]
    with planning_for(PlannedDevice("cpu", LiveAllocator())), FakeTensorMode():
        assert read_numbers(torch.empty(2), planned=[3.0, 4.0]) == [3.0, 4.0]


def test_entries_come_by_rows_with_their_counts() -> None:
    matrix = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])

    row, column, counts = nonzero(matrix, planned_share=0.5)

    assert (row.tolist(), column.tolist(), counts) == ([0, 2, 2], [1, 0, 2], [1, 0, 2])


@pytest.mark.parametrize(("share", "each"), [(0.0, 0), (0.25, 5), (1.0, 20)])
def test_a_plan_has_as_many_entries_as_assumed(share: float, each: int) -> None:
    with planning_for(PlannedDevice("cpu", LiveAllocator())), FakeTensorMode():
        row, column, counts = nonzero(torch.empty(3, 20), planned_share=share)

    assert counts == [each] * 3
    assert row.shape == column.shape == (3 * each,)
    assert row.dtype == column.dtype == torch.int64


def test_distinct_numbers_come_with_their_places_and_counts() -> None:
    numbers, which, counts = unique_counts(torch.tensor([1, 1, 4, 7, 7, 7]), at_most=10)

    assert (numbers.tolist(), which.tolist(), counts) == ([1, 4, 7], [0, 0, 1, 2, 2, 2], [2, 1, 3])


@pytest.mark.parametrize(("elements", "at_most", "expected"), [(5, 10, [1] * 5), (7, 3, [3, 2, 2]), (0, 3, [])])
def test_a_plan_has_as_many_distinct_numbers_as_there_may_be(elements: int, at_most: int, expected: list[int]) -> None:
    with planning_for(PlannedDevice("cpu", LiveAllocator())), FakeTensorMode():
        numbers, which, counts = unique_counts(torch.empty(elements, dtype=torch.int64), at_most=at_most)

    assert counts == expected
    assert numbers.shape == (len(expected),)
    assert which.shape == (elements,)
