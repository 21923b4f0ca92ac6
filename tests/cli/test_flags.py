"""The flags of ``train``, ``plan`` and ``fit``: their defaults, their help, and the way back from settings to flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from splade_bench.cli import main
from splade_bench.cli.fit import FitCommand
from splade_bench.cli.flags import parse_train_command, searched_fields_given, train_arguments
from splade_bench.cli.train import TrainCommand
from splade_bench.config import MEMORY_MODES, TrainConfig, memory_mode

PRESET = TrainConfig(max_length=64, batch_size=32, learning_rate=5e-4)


def config_of(*arguments: str) -> TrainConfig:
    return parse_train_command(TrainCommand, arguments, verb="train").config


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], PRESET),
        (["--model-name", "base"], PRESET),
        (["--model-name", "bert-base-uncased"], TrainConfig()),
        (["--model_name=bert-base-uncased", "--batch-size", "4"], TrainConfig(batch_size=4)),
        (["--model-name", "some/model", "--model-name", "tiny"], PRESET),
        (["--memory-mode", "standard"], replace(PRESET, memory=MEMORY_MODES["standard"])),
        (["--memory_mode=standard+length-buckets"], replace(PRESET, memory=memory_mode("standard+length-buckets"))),
        (["--memory-efficient"], PRESET),
        (
            ["--padding", "longest", "--memory-mode", "standard"],
            replace(PRESET, memory=replace(MEMORY_MODES["standard"], padding="longest")),
        ),
    ],
)
def test_the_model_and_the_memory_mode_decide_the_defaults_of_other_flags(
    arguments: list[str], config: TrainConfig
) -> None:
    assert config_of(*arguments) == config


@pytest.mark.parametrize("verb", ["train", "plan", "fit"])
def test_a_command_line_is_parsed_once(
    verb: str, parses: list[Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model-name", "toy", "--memory-mode", "standard", "--budget", "8GB"]
    arguments += ["--auto-fit"] if verb == "train" else []

    assert main([verb, *arguments, "--device", "cpu"]) == 2

    assert "--budget '8GB'" in capsys.readouterr().err
    assert parses == [[*arguments, "--device", "cpu"]]


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ([], set()),
        (["--no-activation-checkpointing"], {"activation_checkpointing"}),
        (["--optimizer-states", "float32", "--mini-batch-tokens=256"], {"optimizer_states", "mini_batch_tokens"}),
        (["--mixed_precision", "no", "--attention-dropout"], {"mixed_precision", "attention_dropout"}),
        (["--no_attention_dropout", "--batch-size=4"], {"attention_dropout"}),
        (["--memory-mode", "minimal-memory"], set()),
        (["--memory-mode", "memory-efficient+optimizer-states-disk"], {"optimizer_states"}),
        (["--memory_mode=memory-efficient-without-selective-recomputation"], {"selective_recomputation"}),
        (["--memory-mode", "memory-efficient+length-buckets"], set()),
    ],
)
def test_a_setting_is_given_by_its_flag_or_by_a_technique_whatever_its_value(flags: list[str], given: set[str]) -> None:
    arguments = ["--model-name", "toy", "--batch-size", "2", *flags]

    assert searched_fields_given(arguments) == given
    assert parse_train_command(FitCommand, arguments, verb="fit")  # they are flags


@pytest.mark.parametrize("mode", ["standard", "minimal-memory", "memory-efficient+optimizer-states-disk"])
def test_flags_made_of_settings_mean_the_same_settings(mode: str) -> None:
    flags = ["--model-name", "toy", "--memory-mode", mode, "--no-fused-optimizer", "--epochs", "2", "--overwrite"]
    command = parse_train_command(FitCommand, [*flags, "--json", "--memory-tracking"], verb="fit")
    memory = replace(
        command.config.memory, optimizer_states="bfloat16", mini_batch_tokens=48, padding="max_length", trim_heap=False
    )
    config = replace(command.config, memory=memory, mixed_precision="bf16", learning_rate=1e-3)

    arguments = train_arguments(command, config)

    again = parse_train_command(TrainCommand, arguments, verb="train")
    assert again.config == config
    assert (again.output, again.placement) == (command.output, command.placement)
    assert not again.json


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ending:
        main([*arguments, "--help"])
    assert ending.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_names_every_flag_of_the_article(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "train")

    flags = "device force-device gradient-accumulation-steps memory-tracking memory-efficient batch-size train-file"
    flags += " val-file output-dir model-name max-length learning-rate epochs max-steps seed memory-mode json"
    for flag in flags.split():
        assert f"--{flag}" in text


def test_help_shows_the_defaults_of_the_model_and_the_memory_mode(capsys: pytest.CaptureFixture[str]) -> None:
    preset = help_of(capsys, "train")
    pretrained = help_of(capsys, "plan", "--model-name", "some/model", "--memory-mode", "standard")

    for text, batch_size, head in ((preset, 32, "streaming"), (pretrained, 8, "eager")):
        assert f"come from the same batch. (default: {batch_size})" in text
        assert f"streaming never makes them. (default: {head})" in text
    assert "(default: memory-efficient)" in preset


@pytest.mark.parametrize("verb", ["plan", "fit"])
def test_help_says_which_flags_have_no_effect_on_a_plan(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no effect here" not in help_of(capsys, "train")
    note = "--val-file, --force-device and the output options have no effect here."
    _, noted, groups = help_of(capsys, verb).partition(note)
    assert noted
    _, _, flags = groups.partition("output options")
    assert "--output-dir" in flags
    assert "--overwrite" in flags
    assert "--memory-tracking" in flags
