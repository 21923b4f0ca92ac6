"""The best evaluation, what counts as an improvement, and when a run ends early."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

import pytest

from splade_bench.errors import ConfigError
from splade_bench.training.early_stopping import BestMetric, greater_is_better_by_default
from splade_bench.training.state import TrainState

METRIC = "mrr@10"


def follow(best: BestMetric, values: Sequence[float | None], first_step: int = 10) -> TrainState:
    """An evaluation each ten steps, until the run is asked to stop."""
    state = TrainState(max_steps=1000, global_step=first_step - 10)
    for value in values:
        state.global_step += 10
        best.on_evaluation(state, {best.metric: value, "other": 1.0})
        if state.stop_requested:
            break
    return state


def test_the_best_evaluation_is_the_one_with_the_largest_figure() -> None:
    best = BestMetric(METRIC)

    follow(best, [0.1, 0.3, 0.2])

    assert (best.best, best.best_step) == (0.3, 20)
    assert best.evaluations_without_improvement == 1
    follow(best, [0.4], first_step=40)
    assert (best.best, best.best_step) == (0.4, 40)
    assert best.evaluations_without_improvement == 0


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("mrr@10", True),
        ("candidate_p@1", True),
        ("recall@100", True),
        ("query_expansion_ratio", True),
        ("validation_loss", False),
        ("query_active_dims", False),
        ("document_active_dims", False),
    ],
)
def test_the_name_of_a_metric_decides_its_direction(metric: str, greater: bool) -> None:
    assert greater_is_better_by_default(metric) is greater
    best = BestMetric(metric)
    follow(best, [2.0, 3.0, 1.0])
    assert best.best == (3.0 if greater else 1.0)


def test_a_given_direction_overrides_the_name() -> None:
    best = BestMetric(METRIC, greater_is_better=False)

    follow(best, [2.0, 1.0, 3.0])

    assert best.best == 1.0


def test_patience_ends_the_run_and_says_why() -> None:
    best = BestMetric(METRIC, patience=2)

    state = follow(best, [0.1, 0.3, 0.2, 0.3, 0.9])

    assert (state.global_step, state.stop_requested) == (40, True)
    reason = "early stopping: mrr@10 has not improved in 2 evaluations in a row; the best is 0.3, at step 20"
    assert state.stop_reason == reason


def test_without_patience_a_run_never_ends_early() -> None:
    state = follow(BestMetric(METRIC), [0.5] + [0.1] * 50)

    assert not state.stop_requested
    assert state.stop_reason is None


def test_a_small_improvement_is_best_but_does_not_save_the_run() -> None:
    best = BestMetric(METRIC, patience=2, min_delta=0.1)

    state = follow(best, [0.5, 0.55, 0.58, 0.9])

    assert state.global_step == 30
    assert (best.best, best.best_step) == (0.58, 30)
    assert state.stop_reason is not None
    assert "by more than 0.1" in state.stop_reason


def test_small_improvements_add_up() -> None:
    best = BestMetric("validation_loss", patience=2, min_delta=0.1)

    state = follow(best, [1.0, 0.95, 0.88, 0.83, 0.77])

    assert not state.stop_requested


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", [METRIC, "validation_loss"])
def test_a_figure_that_is_not_finite_is_never_best(metric: str, value: float, caplog: pytest.LogCaptureFixture) -> None:
    best = BestMetric(metric, patience=3)

    with caplog.at_level(logging.WARNING):
        state = follow(best, [value, 0.5, value, value, value])

    assert (best.best, best.best_step) == (0.5, 20)
    assert (state.global_step, state.stop_requested) == (50, True)
    assert f"optimizer step 10: {metric} is {value}" in caplog.text


def test_a_figure_that_is_missing_is_named_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    best = BestMetric(METRIC, patience=2)

    with caplog.at_level(logging.WARNING):
        state = follow(best, [0.5, None, None, None])
        best.on_evaluation(state, {})

    assert not state.stop_requested
    assert (best.best, best.evaluations_without_improvement) == (0.5, 0)
    assert "optimizer step 20: the evaluation has no mrr@10" in caplog.text


@pytest.mark.parametrize("cut", range(6))
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(cut: int) -> None:
    values = [0.1, 0.3, 0.25, 0.38, 0.39, 0.37, 0.36]
    whole = BestMetric(METRIC, patience=4, min_delta=0.1)
    expected = follow(whole, values)
    first, second = (BestMetric(METRIC, patience=4, min_delta=0.1) for _ in range(2))
    assert not follow(first, values[:cut]).stop_requested

    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    state = follow(second, values[cut:], first_step=10 * (cut + 1))

    assert (state.global_step, state.stop_reason) == (expected.global_step, expected.stop_reason)
    assert expected.stop_requested
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("other", "flag"),
    [
        (BestMetric("validation_loss"), "--metric-for-best-model validation_loss"),
        (BestMetric(METRIC, greater_is_better=False), "--greater-is-better False"),
    ],
)
def test_another_metric_or_direction_is_refused_by_name(other: BestMetric, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: the run of the checkpoint has"):
        other.load_state_dict(BestMetric(METRIC).state_dict())
