"""Vectors that become all zero or all dense end a run, or warn; a head that starts dense does neither."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest

from splade_bench.errors import TrainingError
from splade_bench.training.collapse import COLLAPSED_STEPS, DENSE_START_STEPS, CollapseError, CollapseGuard
from splade_bench.training.state import StepLoss, TrainState

VOCAB_SIZE = 1000
SIDES = ["query", "document"]


def run(guard: CollapseGuard, active_dims: Sequence[float], *, side: str = "query", max_steps: int = 0) -> TrainState:
    """Steps whose vectors of one side have these active dims; the other side is healthy."""
    state = TrainState(max_steps=max_steps or len(active_dims))
    for value in active_dims:
        state.global_step += 1
        dims = {"query_active_dims": 50.0, "document_active_dims": 50.0} | {f"{side}_active_dims": value}
        guard.on_step_end(state, StepLoss(total=1, ranking=1, query_regularizer=0, document_regularizer=0, **dims))
    return state


@pytest.mark.parametrize("side", SIDES)
def test_all_zero_vectors_stop_the_run_after_ten_steps(side: str) -> None:
    run(CollapseGuard(VOCAB_SIZE), [50.0] * 3 + [0.0] * 9 + [50.0], side=side)

    with pytest.raises(CollapseError) as stopped:
        run(CollapseGuard(VOCAB_SIZE), [50.0] * 3 + [0.4] * 10, side=side)

    message = str(stopped.value)
    assert f"optimizer step 13: the {side} vectors have been all zero for 10 steps" in message
    assert f"lower --{side}-regularizer-weight or a lower --learning-rate" in message
    assert "--on-collapse warn" in message
    assert isinstance(stopped.value, TrainingError)


def test_vectors_with_one_active_entry_each_have_not_collapsed() -> None:
    run(CollapseGuard(VOCAB_SIZE), [1.0] * 100)


@pytest.mark.parametrize("side", SIDES)
def test_vectors_that_were_sparse_and_become_dense_stop_the_run_after_ten_steps(side: str) -> None:
    run(CollapseGuard(VOCAB_SIZE), [400.0] + [990.0] * 9 + [980.0] * 20, side=side)

    with pytest.raises(CollapseError) as stopped:
        run(CollapseGuard(VOCAB_SIZE), [400.0] + [990.0] * 10, side=side)

    message = str(stopped.value)
    assert f"optimizer step 11: 99.0% of the entries of the {side} vectors are above 0" in message
    assert f"higher --{side}-regularizer-weight" in message
    assert "--model-name" in message


def test_a_head_that_starts_dense_stops_nothing() -> None:
    run(CollapseGuard(VOCAB_SIZE), [1000.0] * (DENSE_START_STEPS - 1) + [600.0] * 20 + [20.0] * 20)


def test_vectors_that_are_never_sparse_stop_the_run() -> None:
    with pytest.raises(CollapseError, match=f"optimizer step {DENSE_START_STEPS}:"):
        run(CollapseGuard(VOCAB_SIZE), [1000.0] * DENSE_START_STEPS)


def test_a_long_run_has_until_its_middle_to_become_sparse() -> None:
    """The regularizers' warm-up is a share of the run, by default a third."""
    run(CollapseGuard(VOCAB_SIZE), [1000.0] * 1499, max_steps=3000)

    with pytest.raises(CollapseError, match="optimizer step 1500:"):
        run(CollapseGuard(VOCAB_SIZE), [1000.0] * 1500, max_steps=3000)


def test_warn_says_it_once_for_each_collapse(caplog: pytest.LogCaptureFixture) -> None:
    collapse = [50.0] + [0.0] * (3 * COLLAPSED_STEPS)

    with caplog.at_level(logging.WARNING):
        run(CollapseGuard(VOCAB_SIZE, "warn"), [*collapse, *collapse, 50.0] + [1000.0] * 30)

    zero_first, zero_second, dense = (record.getMessage() for record in caplog.records)
    assert "optimizer step 11: the query vectors have been all zero" in zero_first
    assert "optimizer step 42: the query vectors have been all zero" in zero_second
    assert "above 0" in dense


@pytest.mark.parametrize("values", [[50.0] + [0.0] * 10, [50.0] + [1000.0] * 10, [1000.0] * DENSE_START_STEPS])
def test_a_resumed_run_counts_on(values: list[float]) -> None:
    cut = len(values) - 4
    before, after = CollapseGuard(VOCAB_SIZE), CollapseGuard(VOCAB_SIZE)
    run(before, values[:cut], max_steps=len(values))

    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    run(after, values[cut:-1], max_steps=len(values))

    with pytest.raises(CollapseError):
        run(after, values[-1:], max_steps=len(values))


def test_a_collapse_that_was_only_warned_of_stops_a_resumed_run() -> None:
    before, after = CollapseGuard(VOCAB_SIZE, "warn"), CollapseGuard(VOCAB_SIZE, "stop")
    run(before, [0.0] * 30)
    after.load_state_dict(before.state_dict())

    with pytest.raises(CollapseError):
        run(after, [0.0])
