"""``splade-bench fit`` on the toy model: what it prints, and that ``train`` understands it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from splade_bench.cli import main
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command
from splade_bench.planner.calibration import calibrated_rates
from splade_bench.planner.rates import Rates
from splade_bench.planner.requests import planned_encoder

# Four texts, so that there are few sizes of mini-batches to plan.
TOY = ["fit", "--model-name", "toy", "--device", "cpu", "--max-length", "16", "--batch-size", "2"]
TOY += ["--negatives-per-query", "0"]
# Settings that need not be chosen, where a test is about something else.
GIVEN = ["--optimizer-states", "float32", "--selective-recomputation", "--activation-checkpointing"]
RUNTIME_BYTES = 400 * 2**20


@pytest.fixture(scope="module")
def rates() -> Rates:
    """This machine's speed, timed once for all tests here."""
    return calibrated_rates(planned_encoder("tiny"), torch.device("cpu"))


@pytest.fixture(autouse=True)
def _same_runtime_and_rates(rates: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process grows from test to test."""
    monkeypatch.setattr("splade_bench.planner.requests.known_rss_bytes", lambda: RUNTIME_BYTES)
    monkeypatch.setattr("splade_bench.planner.fitting.calibrated_rates", lambda *_, **__: rates)


def fit_json(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    assert main([*TOY, "--json", *more]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def train_command(arguments: Sequence[str]) -> TrainCommand:
    return parse_train_command(TrainCommand, arguments, verb="train")


def test_the_answer_is_a_training_that_train_understands(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, "--budget", "64GiB", "--seed", "7")

    assert found["fits"] is True
    assert 0 < found["peak_bytes"] < found["budget_bytes"] == 64 * 2**30
    assert found["predicted_step_time_s"] > 0
    assert found["inexact"] == []
    command = train_command(found["train_arguments"])
    assert command.config.to_dict() == found["config"]
    assert (command.model_name, command.config.seed, command.config.batch_size) == ("toy", 7, 2)
    assert shlex.split(found["command"]) == ["splade-bench", "train", *found["train_arguments"]]
    assert found["runner_ups"]
    assert all(row["fits"] and not row["inexact"] for row in found["runner_ups"])
    peaks = [row["peak_bytes"] for row in found["frontier"]]
    assert peaks == sorted(peaks, reverse=True)


def test_text_for_people(capsys: pytest.CaptureFixture[str], train_file: Path) -> None:
    assert main([*TOY, *GIVEN, "--budget", "8GiB", "--train-file", str(train_file)]) == 0

    text = capsys.readouterr().out
    first, *_ = text.splitlines()
    assert shlex.split(first)[:2] == ["splade-bench", "train"]
    assert str(train_file) in shlex.split(first)
    assert "of 8192 MiB" in text
    assert "(predicted)" in text
    assert "frontier" in text
    assert "assumed: texts of full length for the peak, those of a usual batch for the time; 1.0% of the " in text


def test_inexact_settings_are_named_where_they_are_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--selective-recomputation", "--no-activation-checkpointing", "--mini-batch-tokens", "16")
    allowed = fit_json(capsys, "--budget", "64GiB", "--allow-inexact", *given, "--mixed-precision", "no")

    named = {name for row in [*allowed["runner_ups"], allowed] for name in row["inexact"]}
    assert "optimizer-states-bfloat16" in named
    assert "--mixed-precision bf16" not in named


def test_where_nothing_fits_the_smallest_plan_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    # More than the runtime and the toy's weights take, and less than that with what is kept free.
    found = fit_json(capsys, "--budget", str(RUNTIME_BYTES + 15 * 2**20), code=1)

    assert (found["fits"], found["command"]) == (False, None)
    assert "nothing fits" in found["verdict"]
    assert "too much" in found["verdict"]
    assert "--allow-inexact" in found["verdict"]


def test_work_takes_the_place_of_time_where_the_device_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, *GIVEN, "--device", "mps", "--budget", "8GiB"]) == 0
    assert (
        "mps is not in this machine: sorted by the amount of computation (TFLOP); no times are predicted"
        in capsys.readouterr().out
    )


def test_a_named_flag_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, "--budget", "64GiB", "--activation-checkpointing", "--mini-batch-tokens", "16")

    assert "--activation-checkpointing" in found["train_arguments"]
    for row in [found, *found["runner_ups"], *found["frontier"]]:
        assert train_command(row["train_arguments"]).config.memory.activation_checkpointing is True


@pytest.mark.parametrize(("free_bytes", "code"), [(200 * 2**20, 0), (100 * 2**20, 1)])
def test_free_memory_is_read_once_and_is_the_budget_of_every_plan_and_figure(
    free_bytes: int, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory of a GPU falls from reading to reading, by as much as decides what fits."""
    readings = iter([free_bytes, *range(2**20, 0, -1)])
    monkeypatch.setattr("splade_bench.cli.planning.memory_limit_bytes", lambda name: next(readings))

    found = fit_json(capsys, *GIVEN, "--device", "cuda", code=code)

    assert next(readings) == 2**20, "it was read more than once"
    assert found["budget_bytes"] == free_bytes
    kept_free_bytes = 64 * 2**20
    for row in [found["smallest"], *found["frontier"], *found["runner_ups"]]:
        assert row["fits"] == (row["peak_bytes"] <= free_bytes - kept_free_bytes)
    if code:
        over_bytes = found["smallest"]["peak_bytes"] + kept_free_bytes - free_bytes
        assert "nothing fits in 100 MiB" in found["verdict"]
        assert f"{over_bytes / 2**20:.0f} MiB too much" in found["verdict"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "8GB"], "--budget '8GB' is not a size"),
        (["--budget", "1MiB"], "every batch size needs at least"),
        (["--budget", "0"], "--budget 0: must be above 0"),
        (["--device", "mps"], "--device mps is not in this machine, so its memory is unknown; give --budget"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--auto-fit"], "--auto-fit"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_two(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.cli.planning.memory_limit_bytes", lambda name: None)

    code = main([*TOY, *GIVEN, *arguments])

    captured = capsys.readouterr()
    assert code == 2
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
