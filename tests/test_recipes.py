"""Recipes are settings that a run can have, and flags beside one overrule it."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command, train_arguments
from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.recipes import RECIPES

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_made_of_settings_and_has_a_source(name: str) -> None:
    recipe = RECIPES[name]

    config = TrainConfig(**recipe.settings)

    assert recipe.settings.keys() <= {field.name for field in fields(TrainConfig)}
    assert config != TrainConfig()
    assert recipe.source
    assert recipe.summary.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model_name", ["tiny", "some/model"])
def test_a_recipe_gives_the_defaults_and_a_flag_beside_it_overrules_it(name: str, model_name: str) -> None:
    line = ["--recipe", name, "--model-name", model_name]

    plain = parse_train_command(TrainCommand, line, verb="train")
    changed = parse_train_command(TrainCommand, [*line, "--batch-size", "3", "--weight-decay", "0.7"], verb="train")

    for field, value in RECIPES[name].settings.items():
        assert getattr(plain.config, field) == value
        if field not in ("batch_size", "weight_decay"):
            assert getattr(changed.config, field) == value
    assert (changed.config.batch_size, changed.config.weight_decay) == (3, 0.7)
    again = parse_train_command(TrainCommand, train_arguments(changed, changed.config), verb="train")
    assert again.config == changed.config


@pytest.mark.parametrize(
    ("flag", "value", "steps"),
    [
        ("--warmup-ratio", "0.3", "warmup_steps"),
        ("--regularizer-warmup-ratio", "0.5", "regularizer_warmup_steps"),
        ("--epochs", "2", "max_steps"),
    ],
)
def test_a_share_beside_a_recipe_takes_the_place_of_its_number_of_steps(flag: str, value: str, steps: str) -> None:
    line = ["--recipe", "splade-pp", flag, value]
    config = parse_train_command(TrainCommand, line, verb="train").config

    assert RECIPES["splade-pp"].settings[steps] > 0
    assert getattr(config, steps) is None


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ("--warmup-ratio 0.2 --warmup-steps 5", "--warmup-steps None"),
        ("--margin 0.5", "--loss margin"),
        ("--loss margin-mse --temperature 2", "--loss contrastive or kl"),
        ("--teacher-temperature 2", "--loss kl"),
        ("--query-encoder model --query-learning-rate 0.1", "--query-encoder static"),
    ],
)
def test_a_flag_without_effect_is_refused(flags: str, needed: str) -> None:
    with pytest.raises(ConfigError, match=f"has no effect without {needed}"):
        parse_train_command(TrainCommand, flags.split(), verb="train")


def test_a_recipe_may_be_none() -> None:
    plain = parse_train_command(TrainCommand, [], verb="train")

    assert parse_train_command(TrainCommand, ["--recipe", "None"], verb="train").config == plain.config


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^--recipe splade: there is none of this name; choose from article, "):
        parse_train_command(TrainCommand, ["--recipe", "splade"], verb="train")


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_has_the_settings_of_each_recipe(name: str) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"## {name}\n")[1].split("\n## ")[0]
    recipe = RECIPES[name]

    block = section.split("```\n")[1]
    program, verb, *flags = shlex.split(block.replace("\\\n", " "))
    written = parse_train_command(TrainCommand, flags, verb="train").config

    assert (program, verb) == ("splade-bench", "train")
    assert recipe.source in section
    assert written == parse_train_command(TrainCommand, ["--recipe", name], verb="train").config
