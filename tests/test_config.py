from __future__ import annotations

import json
import math
from typing import Any

import pytest

from splade_bench.config import MEMORY_MODES, TrainConfig, memory_mode
from splade_bench.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("epochs", 0),
        ("max_steps", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("warmup_ratio", 1.5),
        ("margin", -0.1),
        ("max_length", 2),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_flag(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        TrainConfig(**{field: value})


def test_margin_loss_without_negatives_is_refused() -> None:
    with pytest.raises(ConfigError, match="--negatives-per-query"):
        TrainConfig(loss="margin", negatives_per_query=0)


def test_configuration_is_plain_json() -> None:
    config = TrainConfig(memory=MEMORY_MODES["article"])

    record = json.loads(json.dumps(config.to_dict()))

    assert record["memory"]["garbage_collection_interval"] == 5
    assert record["batch_size"] == config.batch_size


def test_an_unknown_memory_mode_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="standard, article, memory-efficient"):
        memory_mode("tiny")


def test_article_mode_is_standard_and_garbage_collection() -> None:
    from dataclasses import replace

    assert replace(MEMORY_MODES["article"], garbage_collection_interval=0) == MEMORY_MODES["standard"]
