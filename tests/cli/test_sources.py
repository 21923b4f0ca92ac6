"""The model that a command line names: a checkpoint is used only if it is undamaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.model import SpladeEncoder
from splade_bench.training.checkpoints import Checkpoint, Checkpoints

VERBS: Mapping[str, Callable[[str], Sequence[str]]] = {
    "evaluate": lambda data: ["--val-file", data],
    "train": lambda data: ["--train-file", data, "--batch-size", "4", "--max-length", "16", "--max-steps", "1"],
    "plan": lambda data: ["--train-file", data, "--batch-size", "4", "--max-length", "16"],
    "plan of real lengths": lambda data: ["--train-file", data, "--lengths", "data", "--max-length", "16"],
    "fit": lambda data: ["--train-file", data, "--max-length", "16", "--budget", "2GiB"],
}


@pytest.fixture
def checkpoint(tmp_path: Path, encoder: SpladeEncoder) -> Checkpoint:
    return Checkpoints(tmp_path).save(4, encoder.save_pretrained)


def change_a_weight(folder: Path) -> None:
    """A file that still loads: other numbers, no other shape."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def change_the_limit(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 3}))


DAMAGE = {"model.safetensors": change_a_weight, "tokenizer_config.json": change_the_limit}


@pytest.mark.parametrize("file_name", DAMAGE)
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_checkpoint_is_refused_as_a_model(
    verb: str,
    file_name: str,
    checkpoint: Checkpoint,
    train_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # of splade-output
    DAMAGE[file_name](checkpoint.path)
    arguments = [verb.split()[0], "--model-name", str(checkpoint.path), "--device", "cpu"]

    assert main([*arguments, *VERBS[verb](str(train_file))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{checkpoint.path / file_name}: " in line


def test_a_sound_checkpoint_is_a_model(
    checkpoint: Checkpoint, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model-name", str(checkpoint.path), "--device", "cpu", "--json"]

    assert main([*arguments, *VERBS["evaluate"](str(train_file))]) == 0
    assert json.loads(capsys.readouterr().out)["model_name"] == str(checkpoint.path)


def test_a_folder_with_the_name_of_a_preset_is_not_passed_over_in_silence(
    encoder: SpladeEncoder,
    train_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder.save_pretrained(tmp_path / "tiny")
    arguments = ["train", *VERBS["train"](str(train_file)), "--device", "cpu", "--overwrite", "--model-name"]

    assert main([*arguments, "tiny"]) == 0
    assert "--model-name tiny is a preset with random weights, not the folder here: ./tiny names that" in caplog.text
    caplog.clear()
    assert main([*arguments, "./tiny"]) == 0
    assert "--model-name" not in caplog.text
