"""``splade-bench fit`` and ``train --auto-fit`` on the toy model: what they print, and that train understands it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.cli import main
from splade_bench.cli.fit import FitCommand, given_fields, train_arguments
from splade_bench.cli.train import TrainCommand, parse_train_command
from splade_bench.config import memory_mode
from splade_bench.data.records import Triple

# Four texts, so that there are few sizes of mini-batches to plan.
TOY = ["fit", "--model-name", "toy", "--device", "cpu", "--max-length", "16", "--batch-size", "2"]
TOY += ["--negatives-per-query", "0"]
RUNTIME_BYTES = 400 * 2**20


@pytest.fixture(autouse=True)
def _same_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process grows from test to test."""
    monkeypatch.setattr("splade_bench.cli.fit.current_rss_bytes", lambda: RUNTIME_BYTES)


def fit_json(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    assert main([*TOY, "--json", *more]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def train_file(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    path = tmp_path / "train data.json"
    records = [
        {"query": one.query, "positive_document": one.positive, "negative_documents": [*one.negatives]}
        for one in triples
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_the_answer_is_a_training_that_train_understands(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, "--budget", "64GiB", "--seed", "7")

    assert found["fits"] is True
    assert 0 < found["peak_bytes"] < found["budget_bytes"] == 64 * 2**30
    assert found["predicted_step_time_s"] > 0
    assert found["inexact"] == []
    command = parse_train_command(TrainCommand, found["train_arguments"], verb="train")
    assert command.config.to_dict() == found["config"]
    assert (command.model_name, command.config.seed, command.config.batch_size) == ("toy", 7, 2)
    assert shlex.split(found["command"]) == ["splade-bench", "train", *found["train_arguments"]]
    assert found["runner_ups"]
    assert all(row["fits"] and not row["inexact"] for row in found["runner_ups"])
    peaks = [row["peak_bytes"] for row in found["frontier"]]
    assert peaks == sorted(peaks, reverse=True)


def test_text_for_people(capsys: pytest.CaptureFixture[str], train_file: Path) -> None:
    assert main([*TOY, "--budget", "8GiB", "--train-file", str(train_file)]) == 0

    text = capsys.readouterr().out
    first, *_ = text.splitlines()
    assert shlex.split(first)[:2] == ["splade-bench", "train"]
    assert str(train_file) in shlex.split(first)
    assert "of 8192 MiB" in text
    assert "(predicted)" in text
    assert "frontier" in text
    assert "texts of full length, 1.0% of the vectors' entries" in text


def test_inexact_settings_are_named_where_they_are_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--selective-recomputation", "--no-activation-checkpointing", "--mini-batch-tokens", "16")
    allowed = fit_json(capsys, "--budget", "64GiB", "--allow-inexact", *given, "--mixed-precision", "no")

    named = {name for row in [*allowed["runner_ups"], allowed] for name in row["inexact"]}
    assert "optimizer states in bfloat16" in named
    assert "bfloat16 autocast" not in named


def test_where_nothing_fits_the_smallest_plan_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    # More than the runtime and the toy's weights take, and less than that with what is kept free.
    found = fit_json(capsys, "--budget", str(RUNTIME_BYTES + 15 * 2**20), code=1)
    assert (found["fits"], found["command"]) == (False, None)
    assert "nothing fits" in found["verdict"]
    assert "too much" in found["verdict"]
    assert "--allow-inexact" in found["verdict"]


def test_work_takes_the_place_of_time_where_the_device_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--device", "mps", "--budget", "8GiB"]) == 0
    assert "ordered by work, no times predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ([], set()),
        (["--no-activation-checkpointing"], {"activation_checkpointing"}),
        (["--optimizer-states", "float32", "--mini-batch-tokens=256"], {"optimizer_states", "mini_batch_tokens"}),
        (["--mixed_precision", "no", "--attention-dropout"], {"mixed_precision", "attention_dropout"}),
        (["--memory-mode", "minimal-memory"], set()),
        (["--memory-mode", "memory-efficient+optimizer-states-disk"], {"optimizer_states"}),
        (["--memory-mode", "memory-efficient-without-selective-recomputation"], {"selective_recomputation"}),
        (["--memory-mode", "memory-efficient+length-buckets"], set()),
    ],
)
def test_what_a_command_line_names_is_known_even_where_it_names_the_default(flags: list[str], given: set[str]) -> None:
    assert given_fields([*TOY[1:], *flags]) == given


def test_a_named_flag_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, "--budget", "64GiB", "--activation-checkpointing", "--mini-batch-tokens", "16")

    assert "--activation-checkpointing" in found["train_arguments"]
    for row in [found, *found["runner_ups"], *found["frontier"]]:
        command = parse_train_command(TrainCommand, row["train_arguments"], verb="train")
        assert command.config.memory.activation_checkpointing is True
        assert command.config.memory.mini_batch_tokens == 16


@pytest.mark.parametrize("mode", ["memory-efficient", "minimal-memory", "standard", "standard+streaming-head"])
def test_every_setting_has_a_way_back_to_flags(mode: str) -> None:
    flags = ["--model-name", "toy", "--memory-mode", mode, "--loss", "margin", "--max-steps", "3", "--overwrite"]
    command = parse_train_command(FitCommand, flags, verb="fit")
    memory = replace(
        memory_mode(mode), mmap_threshold_bytes=None, trim_heap=False, mini_batch_tokens=48, padding="max_length"
    )
    config = replace(command.config, memory=memory, mixed_precision="bf16", learning_rate=1e-3)

    again = parse_train_command(TrainCommand, train_arguments(command, config), verb="train")

    assert again.config == config
    assert (again.overwrite, again.placement.memory_mode) == (True, mode)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fit", "--budget", "8GB"], "--budget '8GB' is no size"),
        (["fit", "--budget", "1MiB"], "that any batch takes"),
        (["fit", "--budget", "0"], "--budget 0: must be above 0"),
        (["fit", "--device", "mps"], "give --budget"),
        (["fit", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["fit", "--auto-fit"], "--auto-fit"),
        (["train", "--budget", "8GiB"], "--budget: says what --auto-fit may choose"),
        (["train", "--allow-inexact"], "--allow-inexact: says what --auto-fit may choose"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_two(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.cli.plan.memory_limit_bytes", lambda name: None)
    verb, *flags = arguments
    device = [] if "--device" in flags else ["--device", "cpu"]

    code = main([verb, "--model-name", "toy", "--max-length", "16", *device, *flags])

    captured = capsys.readouterr()
    assert code == 2
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_training_with_what_fit_chooses(capsys: pytest.CaptureFixture[str], train_file: Path, tmp_path: Path) -> None:
    flags = ["--train-file", str(train_file), "--output-dir", str(tmp_path / "out"), "--max-steps", "2"]

    code = main(["train", *TOY[1:], *flags, "--auto-fit", "--budget", "64GiB", "--json"])

    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["optimizer_steps"] == 2
    assert record["config"]["batch_size"] == 2
    # Chosen, not the default, which is None.
    assert record["config"]["memory"]["mini_batch_tokens"] >= 16


def test_training_does_not_start_where_fit_complains(
    capsys: pytest.CaptureFixture[str], train_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ["--train-file", str(train_file), "--output-dir", str(out), "--auto-fit", "--budget", "8GB"]

    code = main(["train", *TOY[1:], *flags])

    assert code == 2
    assert "--budget '8GB' is no size" in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "final_model").exists()
