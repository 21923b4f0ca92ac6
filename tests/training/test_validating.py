"""Evaluation while a training runs: when, who is told, and that the training does not notice."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.validating import Validation

LOSS = StepLoss(
    total=1.0, ranking=1.0, query_regularizer=0, document_regularizer=0, query_active_dims=1, document_active_dims=1
)
CPU = torch.device("cpu")


def evaluated_steps(every: int, max_steps: int) -> list[int]:
    steps: list[int] = []
    validation = Validation(lambda: {}, every, [lambda state, metrics: steps.append(state.global_step)], device=CPU)
    state = TrainState(max_steps=max_steps)
    for step in range(1, max_steps + 1):
        state.global_step = step
        validation.on_step_end(state, LOSS)
    return steps


@pytest.mark.parametrize(
    ("every", "max_steps", "steps"),
    [(2, 7, [2, 4, 6, 7]), (2, 6, [2, 4, 6]), (1, 3, [1, 2, 3]), (50, 3, [3])],
)
def test_it_evaluates_each_so_many_steps_and_once_after_the_last(every: int, max_steps: int, steps: list[int]) -> None:
    assert evaluated_steps(every, max_steps) == steps


def test_every_listener_gets_the_figures_in_order() -> None:
    told: list[tuple[str, int, Mapping[str, float | None]]] = []
    figures = {"mrr@10": 0.5}
    validation = Validation(
        lambda: figures,
        1,
        [lambda state, metrics, name=name: told.append((name, state.global_step, metrics)) for name in "ab"],
        device=CPU,
    )

    validation.on_step_end(TrainState(max_steps=9, global_step=4), LOSS)

    assert told == [("a", 4, figures), ("b", 4, figures)]


def test_an_evaluation_that_was_cut_short_is_made_up_for_after_a_resume() -> None:
    def cut_short() -> dict[str, float]:
        raise InterruptedError

    first = Validation(cut_short, 2, [], device=CPU)
    state = TrainState(max_steps=9, global_step=2)
    with pytest.raises(InterruptedError):
        first.on_step_end(state, LOSS)

    done: list[int] = []
    second = Validation(lambda: {}, 2, [lambda state, metrics: done.append(state.global_step)], device=CPU)
    second.load_state_dict(first.state_dict())
    second.evaluate_if_due(state)
    third = Validation(lambda: {}, 2, [lambda state, metrics: done.append(state.global_step)], device=CPU)
    third.load_state_dict(second.state_dict())
    third.evaluate_if_due(state)

    assert done == [2]


def test_the_training_goes_on_with_the_random_numbers_that_it_would_have_had() -> None:
    validation = Validation(lambda: {"mrr@10": torch.rand(7).sum().item()}, 1, [], device=CPU)
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)

    validation.on_step_end(TrainState(max_steps=9, global_step=4), LOSS)

    assert torch.equal(torch.rand(5), expected)
