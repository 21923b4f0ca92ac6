"""Settings are checked where they are made, and a mode's name can add or leave out one technique."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_MODES, MEMORY_TECHNIQUES, MemoryConfig, memory_mode, split_mode


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pad_to_multiple_of", 0),
        ("mini_batch_tokens", 0),
        ("mini_batch_size", 0),
        ("mini_batch_size", -3),
        ("garbage_collection_interval", -1),
        ("empty_cache_interval", -1),
        ("mmap_threshold_bytes", 0),
        ("mmap_threshold_bytes", 2**31),  # glibc would see its low 32 bits: a threshold of zero or below
    ],
)
def test_a_memory_value_out_of_range_is_refused_in_one_line_with_its_flag(field: str, value: int) -> None:
    with pytest.raises(ConfigError) as caught:
        MemoryConfig(**{field: value})  # type: ignore[arg-type]

    flag = "--" + field.replace("_", "-")
    assert str(caught.value).startswith(f"{flag} {value}: must be at ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pad_to_multiple_of", 1),
        ("mini_batch_tokens", 1),
        ("mini_batch_tokens", None),
        ("mini_batch_size", 1),
        ("garbage_collection_interval", 0),
        ("mmap_threshold_bytes", 2**31 - 1),
    ],
)
def test_a_memory_value_at_its_bound_is_taken(field: str, value: int | None) -> None:
    assert getattr(MemoryConfig(**{field: value}), field) == value  # type: ignore[arg-type]


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
    assert replace(MEMORY_MODES["article"], garbage_collection_interval=0) == MEMORY_MODES["standard"]


def test_a_technique_is_added_to_a_mode_or_left_out_of_it_by_name() -> None:
    standard, efficient = MEMORY_MODES["standard"], MEMORY_MODES["memory-efficient"]

    assert memory_mode("standard+streaming-head") == replace(standard, head="streaming")
    assert memory_mode("memory-efficient-without-streaming-head") == replace(efficient, head="eager")
    assert memory_mode("memory-efficient+optimizer-states-disk") == replace(efficient, optimizer_states="disk")


@pytest.mark.parametrize(
    "name", ["standard+", "standard+fast", "fast+streaming-head", "standard-without-", "+streaming-head", ""]
)
def test_an_unknown_technique_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=r"\+TECHNIQUE or -without-TECHNIQUE, with one of streaming-head, "):
        memory_mode(name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("standard", ("standard", None, False)),
        ("standard+streaming-head", ("standard", "streaming-head", True)),
        ("memory-efficient-without-streaming-head", ("memory-efficient", "streaming-head", False)),
        ("standard+autocast-bf16", ("standard", "autocast-bf16", True)),
        ("standard+", ("standard", "", True)),
        ("fast+streaming-head", ("fast+streaming-head", None, False)),
    ],
)
def test_the_parts_of_a_modes_name(name: str, parts: tuple[str, str | None, bool]) -> None:
    assert split_mode(name) == parts


def test_a_technique_has_its_name_and_settings_that_exist() -> None:
    known = {field.name for field in fields(MemoryConfig)}
    for name, technique in MEMORY_TECHNIQUES.items():
        assert technique.name == name
        assert set(technique.settings) <= known
        assert technique.summary.endswith(".")
    assert [name for name, technique in MEMORY_TECHNIQUES.items() if not technique.exact] == [
        "no-attention-dropout",
        "optimizer-states-bfloat16",
    ]


@pytest.mark.parametrize("technique", MEMORY_TECHNIQUES)
def test_every_technique_changes_the_standard_mode(technique: str) -> None:
    assert memory_mode(f"standard+{technique}") != MEMORY_MODES["standard"]
    assert memory_mode(f"standard-without-{technique}") == MEMORY_MODES["standard"]
    assert MEMORY_TECHNIQUES[technique].is_on(memory_mode(f"standard+{technique}"))
    assert not MEMORY_TECHNIQUES[technique].is_on(MEMORY_MODES["standard"])
