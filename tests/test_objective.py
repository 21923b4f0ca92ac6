"""The settings of the loss are checked where they are made."""

from __future__ import annotations

import pytest

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.objective import Objective


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("contrastive", {"contrastive": 1.0}),
        ("kl+0.05*margin-mse", {"kl": 1.0, "margin-mse": 0.05}),
        (" 2 * kl + contrastive ", {"kl": 2.0, "contrastive": 1.0}),
    ],
)
def test_a_loss_is_a_name_or_a_weighted_sum(text: str, weights: dict[str, float]) -> None:
    assert Objective(loss=text).ranking_weights == weights


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("infonce", "there is none called 'infonce'"),
        ("", "there is none called ''"),
        ("kl+", "there is none called ''"),
        ("kl*0.5", "there is none called '0.5'"),
        ("2*3*kl", "there is none called '2*3*kl'"),
        ("kl+kl", "kl comes twice"),
        ("x*kl", "the weight 'x' must be a number above 0"),
        ("-1*kl", "the weight '-1' must be a number above 0"),
        ("nan*kl", "the weight 'nan' must be a number above 0"),
        ("inf*kl", "the weight 'inf' must be a number above 0"),
    ],
)
def test_a_loss_that_cannot_be_read_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Objective(loss=text)

    assert str(caught.value).startswith(f"--loss {text}: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "negatives", "teacher"),
    [("contrastive", False, False), ("margin", True, False), ("contrastive+0.1*kl", True, True)],
)
def test_a_sum_needs_what_one_of_its_losses_needs(loss: str, negatives: bool, teacher: bool) -> None:
    objective = Objective(loss=loss)

    assert (objective.needs_negatives, objective.needs_teacher) == (negatives, teacher)


@pytest.mark.parametrize("loss", ["margin", "margin-mse", "contrastive+kl"])
def test_a_loss_of_own_negatives_needs_some(loss: str) -> None:
    with pytest.raises(ConfigError, match="needs --negatives-per-query of at least 1"):
        TrainConfig(loss=loss, negatives_per_query=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.0), ("teacher_temperature", -1.0), ("regularizer_threshold", -1), ("margin", -0.1)],
)
def test_a_value_out_of_range_is_refused_with_its_flag(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        Objective(**{field: value})  # type: ignore[arg-type]
