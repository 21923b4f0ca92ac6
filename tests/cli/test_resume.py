"""Runs that go on: bit for bit, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from output_folders import Arguments, assert_equal_weights, events, record

from splade_bench.cli import main
from splade_bench.errors import ConfigError
from splade_bench.training.checkpoints import Checkpoint


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    arguments: Arguments, output: Path, stop_within: Callable[[int], None], tmp_path: Path
) -> None:
    more = ["--eval-steps", "3", "--save-steps", "0"]
    assert main(arguments(*more, output="whole")) == 0
    stop_within(5)
    main(arguments(*more))
    assert record(output)["optimizer_steps"] == 5
    assert record(output)["status"] == "interrupted"

    assert main(arguments(*more, "--resume-from-checkpoint")) == 0

    whole, resumed = record(tmp_path / "whole"), record(output)
    assert resumed["resumed_from_step"] == 5
    assert resumed["losses"] == whole["losses"]
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["best_metric"] == whole["best_metric"]
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")
    for name in ("step", "evaluation"):
        steps = [event["step"] for event in events(output, name)]
        assert steps == [event["step"] for event in events(tmp_path / "whole", name)]


def test_latest_starts_a_new_run_and_goes_on_with_an_old_one(arguments: Arguments, output: Path) -> None:
    """One command for a scheduler that starts a job again and again."""
    command = arguments("--save-steps", "4", "--resume-from-checkpoint", "latest")

    assert main(command) == 0
    assert record(output)["resumed_from_step"] is None
    assert main(command) == 0

    assert record(output)["resumed_from_step"] == 8
    assert len(record(output)["losses"]) == 8


def test_a_finished_run_may_grow(arguments: Arguments, output: Path) -> None:
    main(arguments("--save-steps", "4"))

    assert main([*arguments("--save-steps", "4", "--resume-from-checkpoint"), "--max-steps", "10"]) == 0

    assert record(output)["optimizer_steps"] == 10
    assert record(output)["resumed_from_step"] == 8
    steps = [event["step"] for event in events(output, "step")]
    assert steps == list(range(1, 11))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "8"], "--batch-size was 4 and is 8"),
        (["--auto-fit", "--seed", "7"], "--seed was 42 and is 7"),
        (["--auto-fit", "--learning-rate", "1e-3"], "--learning-rate was 0.0005 and is 0.001"),
        (["--model-name", "bert-tiny"], "--model-name was toy and is bert-tiny"),
        (["--max-steps", "3"], "the run had 8 optimizer steps and has 3 now, but it may only grow"),
        (["--overwrite"], "--overwrite deletes the run"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused_by_name(
    more: list[str], message: str, arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "4"))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    assert main([*arguments("--save-steps", "4", "--resume-from-checkpoint", "latest"), *more]) == 2

    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_other_texts_are_refused(arguments: Arguments, train_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments("--save-steps", "4"))
    train_file.write_text(train_file.read_text().replace("parser", "lexer"))

    assert main(arguments("--save-steps", "4", "--resume-from-checkpoint", "latest")) == 2

    assert "data of --train-file and --val-file was" in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_checkpoint_is_passed_over_by_name(
    arguments: Arguments, output: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    main(arguments("--save-steps", "3"))
    moments = output / "checkpoint-8" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-1])

    assert main(arguments("--save-steps", "3", "--resume-from-checkpoint", "latest")) == 0

    assert str(moments) in caplog.text
    assert record(output)["resumed_from_step"] == 6
    assert main(arguments("--save-steps", "3", output="whole")) == 0
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")
    Checkpoint.at(output / "checkpoint-8").verify()


def test_a_damaged_checkpoint_that_was_named_is_refused(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "4"))
    state = output / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text().replace("toy", "toi"))

    assert main(arguments("--resume-from-checkpoint", str(output / "checkpoint-4"))) == 2

    assert str(state) in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_another_folder_starts_a_new_run_there(arguments: Arguments, tmp_path: Path) -> None:
    main(arguments("--save-steps", "4"))
    path = str(tmp_path / "run" / "checkpoint-4")

    assert main(arguments("--resume-from-checkpoint", path, output="other")) == 0

    assert_equal_weights(tmp_path / "run" / "final_model", tmp_path / "other" / "final_model")
    assert (tmp_path / "run" / "checkpoint-8").is_dir()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume-from-checkpoint", "nowhere"], "nowhere: is not a checkpoint"),
        (["--resume-from-checkpoint", "best"], "has no best checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    more: list[str], message: str, arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(*more)) == 2

    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in output.iterdir()] == [".lock"]


def test_an_earlier_run_with_checkpoints_is_refused_and_can_be_replaced(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "2"))

    assert main(arguments("--save-steps", "2")) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "--resume-from-checkpoint" in complaint
    assert "--overwrite" in complaint

    assert main(arguments("--save-steps", "5", "--overwrite")) == 0
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-8"]


@pytest.mark.parametrize(
    "more",
    [
        ["--overwrite", "--log-dir", "curves"],
        ["--resume-from-checkpoint", "latest", "--log-dir", "curves"],
        ["--resume-from-checkpoint", "{checkpoint-4}", "--metric-for-best-model", "p@1"],
        ["--resume-from-checkpoint", "{checkpoint-4}", "--seed", "1"],
    ],
)
def test_a_refused_start_changes_nothing_of_the_earlier_run(
    more: list[str],
    arguments: Arguments,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saving = ["--save-steps", "2", "--eval-steps", "2", "--save-total-limit", "9"]
    main(arguments(*saving))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    def missing(*_: Any) -> None:
        raise ConfigError("--log-dir: tensorboard cannot be imported")

    monkeypatch.setattr("splade_bench.cli.training_run.TensorBoardLog", missing)
    refused = [word.replace("{checkpoint-4}", str(output / "checkpoint-4")) for word in more]

    assert main([*arguments(*saving), *refused]) == 2

    assert capsys.readouterr().err.splitlines()[-1].startswith("splade-bench train: --")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_short_run_that_may_be_started_again_has_a_checkpoint(arguments: Arguments, output: Path) -> None:
    command = arguments("--resume-from-checkpoint", "latest")

    assert [main(command), main(command)] == [0, 0]

    assert record(output)["resumed_from_step"] == 8


def test_a_norm_without_a_limit_can_go_on(arguments: Arguments) -> None:
    more = ["--max-grad-norm", "inf", "--save-steps", "4"]
    main(arguments(*more))

    assert main(arguments(*more, "--resume-from-checkpoint")) == 0


def test_auto_fit_goes_on_with_the_settings_that_it_chose(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splade_bench.cli import memory_settings
    from splade_bench.planner.process import Fitted

    chosen: list[object] = []

    def fitted(request: Any) -> Fitted:
        chosen.append(request)
        return Fitted(request.config, "as it is")

    monkeypatch.setattr(memory_settings, "fitted_training", fitted)
    main(arguments("--save-steps", "4", "--auto-fit"))

    assert main(arguments("--save-steps", "4", "--auto-fit", "--resume-from-checkpoint", "latest")) == 0

    assert len(chosen) == 1
