"""The flags of ``train``, ``plan`` and ``fit``: their defaults, their help, and the way back from settings to flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.cli.fit import FitCommand
from splade_bench.cli.flags import VALIDATION_METRICS, Faults, Saving, Validating
from splade_bench.cli.plan import PlanCommand
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command, searched_fields_given, train_arguments
from splade_bench.config import TrainConfig
from splade_bench.data.records import RetrievalDataset
from splade_bench.evaluation.evaluator import evaluate
from splade_bench.memory_modes import MEMORY_MODES, memory_mode
from splade_bench.model import SpladeEncoder

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


LONG_RUN = (
    "--save-epochs 2 --save-steps 0 --save-total-limit None --load-best-model-at-end --resume-from-checkpoint best "
    "--eval-steps 7 --metric-for-best-model validation_loss --no-greater-is-better --early-stopping-patience 3 "
    "--early-stopping-min-delta 0.01 --log-dir curves --on-collapse warn --on-oom halve --skip-bad-records"
)


@pytest.mark.parametrize("verb", ["train", "plan", "fit"])
def test_the_flags_of_a_long_run_are_flags_of_every_verb_and_come_back_from_settings(verb: str) -> None:
    command = parse_train_command(
        {"train": TrainCommand, "plan": PlanCommand, "fit": FitCommand}[verb], LONG_RUN.split(), verb=verb
    )

    assert command.saving == Saving(
        save_epochs=2,
        save_steps=0,
        save_total_limit=None,
        load_best_model_at_end=True,
        resume_from_checkpoint="best",
    )
    assert command.validating == Validating(
        eval_steps=7,
        metric_for_best_model="validation_loss",
        greater_is_better=False,
        early_stopping_patience=3,
        early_stopping_min_delta=0.01,
        log_dir=Path("curves"),
    )
    assert command.faults == Faults(on_collapse="warn", on_oom="halve", skip_bad_records=True)
    again = parse_train_command(TrainCommand, train_arguments(command, command.config), verb="train")
    assert (again.saving, again.validating, again.faults) == (command.saving, command.validating, command.faults)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], None),
        (["--resume-from-checkpoint"], "latest"),
        (["--resume_from_checkpoint", "--epochs", "4"], "latest"),
        (["--resume-from-checkpoint=best"], "best"),
        (["--resume-from-checkpoint", "runs/checkpoint-5"], "runs/checkpoint-5"),
    ],
)
def test_resume_alone_means_the_latest_checkpoint(flags: list[str], value: str | None) -> None:
    assert parse_train_command(TrainCommand, flags, verb="train").saving.resume_from_checkpoint == value


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ("", None),
        ("--greater-is-better", True),
        ("--greater-is-better False", False),
        ("--greater_is_better True", True),
        ("--no-greater-is-better", False),
        ("--no_greater_is_better --epochs 4", False),
    ],
)
def test_a_direction_is_given_with_and_without_a_value(flags: str, value: bool | None) -> None:
    command = parse_train_command(TrainCommand, flags.split(), verb="train")

    assert command.validating.greater_is_better is value


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--early-stopping-patience 3", "--early-stopping-patience has no effect without --eval-steps; add --eval-"),
        ("--eval-steps 5 --early-stopping-min-delta 0.1", "--early-stopping-min-delta has no effect without --early-s"),
        ("--save-best", "--save-best has no effect without --eval-steps; add --eval-steps N"),
        ("--load-best-model-at-end", "--load-best-model-at-end has no effect without --eval-steps; add --eval-steps"),
        ("--eval-steps 5 --eval-epochs 1", "--eval-steps contradicts --eval-epochs; give one of them"),
        ("--metric-for-best-model mrr", "--metric-for-best-model mrr: unknown; choose from validation_loss, mrr@10, p"),
        ("--eval-steps 0", "--eval-steps 0: must be at least 1"),
        ("--eval-epochs -1", "--eval-epochs -1: must be at least 1"),
        ("--save-steps -1", "--save-steps -1: must be at least 0"),
        ("--save-epochs 0", "--save-epochs 0: must be at least 1"),
        ("--save-total-limit 0", "--save-total-limit 0: must be at least 1"),
        ("--eval-steps 1 --early-stopping-patience 0", "--early-stopping-patience 0: must be at least 1"),
        ("--process-timeout-s 1e300", "--process-timeout-s 1e+300: must be at most 10000000"),
        ("--early-stopping-min-delta nan", "--early-stopping-min-delta nan: must be at least 0"),
        ("--early-stopping-min-delta inf", "--early-stopping-min-delta inf: must be at most 1.7"),
        ("--on-collapse ignore", "--on-collapse"),
        ("--on-oom retry", "--on-oom"),
        ("--save-steps many", "--save-steps"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_contradictions_and_impossible_numbers_are_refused_by_name(
    verb: str, flags: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--model-name", "toy", *flags.split()]) == 2

    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_epochs_become_optimizer_steps() -> None:
    assert Saving().interval(40) == 500
    assert Saving(save_epochs=2).interval(40) == 80
    assert Saving(save_steps=0).interval(40) == 0
    assert Validating().interval(40) == 0
    assert Validating(eval_steps=7).interval(40) == 7
    assert Validating(eval_epochs=3).interval(40) == 120


def test_the_best_model_at_the_end_is_a_saved_one() -> None:
    assert Saving(load_best_model_at_end=True).keeps_best
    assert not Saving().keeps_best


def test_every_figure_of_an_evaluation_may_decide_which_model_is_best(encoder: SpladeEncoder) -> None:
    texts = {"1": "who opens the parser", "2": "the socket is old"}
    dataset = RetrievalDataset(queries=texts, corpus=texts, qrels={"1": {"1": 1}}, candidates={"1": ["1", "2"]})

    figures = evaluate(encoder, dataset, max_length=16)

    assert sorted(VALIDATION_METRICS) == sorted([*figures, "validation_loss"])


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
        assert "streaming never makes them. It is triton where that can run, else tiled. " in text
        assert f"kernels of its own, faster and more exact. (default: {head})" in text
    assert "(default: memory-efficient)" in preset


@pytest.mark.parametrize("verb", ["plan", "fit"])
def test_help_says_which_flags_have_no_effect_on_a_plan(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no effect here" not in help_of(capsys, "train")
    note = "--force-device and the options of output, saving, validating and faults have no effect here"
    _, noted, groups = " ".join(help_of(capsys, verb).split()).partition(note)
    assert noted
    _, _, flags = groups.partition("output options")
    assert "--output-dir" in flags
    assert "--overwrite" in flags
    assert "--memory-tracking" in flags
