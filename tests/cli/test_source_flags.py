"""The flags of the article's trainers: what each becomes, and that the help says what was wrong with it."""

from __future__ import annotations

import logging

import pytest

from splade_bench.cli import main
from splade_bench.cli.flags import Faults, Saving, Validating
from splade_bench.cli.plan import PlanCommand
from splade_bench.cli.source_flags import SOURCE_FLAGS, source_flags_help, translate_source_flags
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command
from splade_bench.errors import ConfigError
from splade_bench.planner.candidates import SEARCHED_FIELDS

BY_LOSS = "--metric-for-best-model validation_loss --eval-epochs 1"
# A row of the table, a command line, and the same in our flags.
CASES = [
    ("--lambda-q", "--lambda-q 0.5", "--query-regularizer-weight 0.5"),
    ("--lambda-d", "--lambda_d=0.5 --epochs 2", "--document-regularizer-weight 0.5 --epochs 2"),
    ("--mixed-precision", "--mixed-precision", "--mixed-precision fp16"),
    ("--mixed-precision", "--mixed-precision bf16", "--mixed-precision bf16"),
    ("--fp16-opt-level", "--fp16-opt-level O2 --epochs 2", "--epochs 2"),
    ("--force-device", "--force-device", "--force-device"),
    ("--memory-efficient", "--memory-efficient", "--memory-efficient"),
    (
        "--early-stopping",
        "--early-stopping",
        f"--early-stopping-patience 3 --early-stopping-min-delta 0.0001 {BY_LOSS}",
    ),
    (
        "--early-stopping-patience",
        "--early-stopping --early-stopping-patience 5 --eval-steps 9",
        "--early-stopping-patience 5 --eval-steps 9 --early-stopping-min-delta 0.0001 "
        "--metric-for-best-model validation_loss",
    ),
    (
        "--early-stopping-min-delta",
        "--early-stopping-min-delta 0.5 --early-stopping",
        f"--early-stopping-min-delta 0.5 --early-stopping-patience 3 {BY_LOSS}",
    ),
    ("--early-stopping-monitor", "--early-stopping-monitor val_loss", "--metric-for-best-model validation_loss"),
    ("--early-stopping-monitor", "--early-stopping-monitor ndcg@10", "--metric-for-best-model ndcg@10"),
    ("--early-stopping-mode", "--early-stopping-mode min", "--greater-is-better False"),
    ("--early-stopping-mode", "--early-stopping-mode=max", "--greater-is-better True"),
    ("--save-best-only", "--save-best-only", f"--save-best --save-steps 0 {BY_LOSS}"),
    ("--save-freq", "--save-freq 2", "--save-epochs 2"),
    ("--max-checkpoints", "--max-checkpoints 4", "--save-total-limit 4"),
    ("--resume-latest", "--resume-latest", "--resume-from-checkpoint latest"),
    ("--resume-best", "--resume-best", "--resume-from-checkpoint best"),
    ("--resume-from-checkpoint", "--resume-from-checkpoint a/b", "--resume-from-checkpoint a/b"),
    ("--log-dir", "--log-dir logs", "--log-dir logs"),
    ("--verbose", "--verbose --epochs 2", "--epochs 2"),
]


@pytest.mark.parametrize(("row", "source", "ours"), CASES)
def test_a_flag_of_the_source_becomes_ours(row: str, source: str, ours: str) -> None:
    assert translate_source_flags(source.split()) == ours.split()
    assert row in source.replace("_", "-")
    commands = [parse_train_command(TrainCommand, line.split(), verb="train") for line in (source, ours)]
    assert commands[0] == commands[1]


def test_every_row_has_a_case() -> None:
    assert {row for row, _, _ in CASES} == {row.name for row in SOURCE_FLAGS}


def test_a_whole_command_line_of_the_source_means_the_same_for_a_plan() -> None:
    line = (
        "--train-file t.json --val-file v.json --output-dir out --early-stopping --save-best-only --save-freq 2 "
        "--max-checkpoints 3 --resume-latest --lambda-d 1e-4 --mixed-precision --verbose"
    )

    command = parse_train_command(PlanCommand, line.split(), verb="plan")

    assert command.saving == Saving(
        save_steps=0, save_epochs=2, save_total_limit=3, save_best=True, resume_from_checkpoint="latest"
    )
    assert command.validating == Validating(
        eval_epochs=1,
        metric_for_best_model="validation_loss",
        early_stopping_patience=3,
        early_stopping_min_delta=1e-4,
    )
    assert command.faults == Faults()
    assert (command.config.document_regularizer_weight, command.config.mixed_precision) == (1e-4, "fp16")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("--resume-latest --resume-best", "--resume-best contradicts --resume-latest; give one of them"),
        ("--resume-from-checkpoint a --resume-latest", "--resume-latest contradicts --resume-from-checkpoint; give"),
        ("--query-regularizer-weight 1 --lambda-q 1", "--lambda-q contradicts --query-regularizer-weight"),
        ("--lambda-q 1 --query-regularizer-weight=1", "--query-regularizer-weight contradicts --lambda-q"),
        ("--save-freq", "--save-freq N: the value is missing"),
        ("--save-freq --epochs 2", "--save-freq N: the value is missing"),
        ("--early-stopping=1", "--early-stopping=1"),
        ("--early-stopping-monitor train_loss", "--metric-for-best-model train_loss: unknown"),
        ("--max-checkpoints 0", "--save-total-limit 0: must be at least 1"),
        ("--early-stopping-mode up", "--greater-is-better"),
    ],
)
def test_what_has_no_meaning_here_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("(", r"\(")):
        parse_train_command(TrainCommand, source.split(), verb="train")


def test_the_same_flag_twice_is_no_contradiction() -> None:
    command = parse_train_command(TrainCommand, ["--lambda-q", "1", "--lambda_q", "2"], verb="train")

    assert command.config.query_regularizer_weight == 2


@pytest.mark.parametrize("flag", ["--verbose", "--fp16-opt-level O1"])
def test_a_flag_without_an_effect_says_so(flag: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        translate_source_flags(flag.split())

    assert f"{flag.split()[0]} has no effect" in caplog.text


def test_other_command_lines_stay_as_they_are() -> None:
    line = ["--model-name", "toy", "--output-dir=a=b", "--query-regularizer-weight", "-1", "-h", "stray", "--json"]

    assert translate_source_flags(line) == line
    assert translate_source_flags([]) == []


def test_fit_sees_a_searched_setting_under_its_own_name() -> None:
    """``searched_fields_given`` reads the command line as it was typed."""
    for row in SOURCE_FLAGS:
        targets = [flag for flag in (*(row.becomes or ()), *row.implies) if flag.startswith("--")]
        fields = {flag[2:].replace("-", "_") for flag in targets if flag != row.name}
        assert not fields & SEARCHED_FIELDS


def test_the_help_of_train_shows_each_flag_and_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    shown = capsys.readouterr().out
    assert source_flags_help() in shown
    words = " ".join(source_flags_help().split())
    for row in SOURCE_FLAGS:
        assert row.name in words
    for was in ("no-op:", "wrong: kept N - 1", "counted epochs", "wrong: no checkpoint could be loaded"):
        assert was in words
    assert all(len(line) <= 132 for line in source_flags_help().splitlines())
