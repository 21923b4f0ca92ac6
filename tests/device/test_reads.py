"""The values that a step reads, with real tensors and in a plan; a plan fails if the step reads any others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedDevice, planning_for
from splade_bench.device.reads import nonzero, read_numbers, unique_counts
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import lean
from splade_bench.model.presets import build_preset
from splade_bench.planner.allocators import LiveAllocator
from splade_bench.planner.rehearsal import Lengths, rehearse
from splade_bench.training.losses import SpladeLoss

LENGTHS = Lengths(groups=((3, 5), (9, 4), (16, 5)))


class NoCopiesToTheHost(TorchFunctionMode):
    """Refuses the one read that fake tensors allow: on an accelerator it waits for the device."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not Tensor.cpu
        return func(*args, **(kwargs or {}))


def rehearse_step(tokenizer: Tokenizer, mode: str) -> None:
    """In float16 with the margin loss; tests/planner/test_rehearsal.py has float32 and the other loss."""
    config = TrainConfig(
        max_length=16,
        batch_size=2,
        gradient_accumulation_steps=2,
        mixed_precision="fp16",
        loss="margin",
        memory=MEMORY_MODES[mode],
    )
    with NoCopiesToTheHost():
        rehearse(
            lambda: build_preset("toy", tokenizer, seed=0, dropout=0.1, attention_dropout=0.1),
            config,
            LENGTHS,
            device=PlannedDevice("cpu", LiveAllocator()),
            active_share=0.1,
        )


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_a_step_runs_without_values(tokenizer: Tokenizer, mode: str) -> None:
    rehearse_step(tokenizer, mode)


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda tensor: tensor.sum().item(),
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.detach().numpy(),
    "cpu": lambda tensor: tensor.cpu(),
    "float": lambda tensor: float(tensor.sum()),
    "bool": lambda tensor: bool(tensor.isfinite().all()),
    "nonzero": lambda tensor: tensor.nonzero(),
    "equal": lambda tensor: torch.equal(tensor, tensor),
    "allclose": lambda tensor: torch.allclose(tensor, tensor),
    "argwhere": lambda tensor: torch.argwhere(tensor),
    "unique": lambda tensor: torch.unique_consecutive(tensor),
    "bincount": lambda tensor: torch.bincount(tensor.flatten().long()),
    "mask": lambda tensor: tensor[tensor > 0],
}


@pytest.mark.parametrize(
    ("place", "read"),
    [((SpladeLoss, "with_gradient"), read) for read in READS] + [((lean, "compact_dropout"), "item")],
)
def test_a_read_elsewhere_fails_the_plan(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], read: str
) -> None:
    def reading(*args: Any, **keywords: Any) -> Any:
        READS[read](next(arg for arg in args if isinstance(arg, Tensor)))
        pytest.fail("the read was possible")

    monkeypatch.setattr(*place, reading)

    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, RuntimeError, AssertionError)):
        rehearse_step(tokenizer, "memory-efficient")


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


def test_unique_numbers_come_with_their_inverse_index_and_counts() -> None:
    values, inverse, counts = unique_counts(torch.tensor([1, 1, 4, 7, 7, 7]), at_most=10)

    assert (values.tolist(), inverse.tolist(), counts) == ([1, 4, 7], [0, 0, 1, 2, 2, 2], [2, 1, 3])


@pytest.mark.parametrize(("elements", "at_most", "expected"), [(5, 10, [1] * 5), (7, 3, [3, 2, 2]), (0, 3, [])])
def test_a_plan_has_as_many_unique_numbers_as_possible(elements: int, at_most: int, expected: list[int]) -> None:
    with planning_for(PlannedDevice("cpu", LiveAllocator())), FakeTensorMode():
        values, inverse, counts = unique_counts(torch.empty(elements, dtype=torch.int64), at_most=at_most)

    assert counts == expected
    assert values.shape == (len(expected),)
    assert inverse.shape == (elements,)
