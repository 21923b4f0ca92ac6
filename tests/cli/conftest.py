"""A file of training data, and a count of parses, for the tests of several verbs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tyro
from output_folders import Arguments

from splade_bench.data.records import Triple
from splade_bench.training.trainer import Trainer


@pytest.fixture
def train_file(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    """The article's format, with both spellings of a negative. The name needs quotes on a command line."""
    path = tmp_path / "train data.json"
    records = [
        {
            "query": triple.query,
            "positive_document": triple.positive,
            "negative_documents": [triple.negatives[0], {"document": triple.negatives[1]}],
        }
        for triple in triples
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines that were parsed since."""
    parsed: list[Sequence[str]] = []
    cli: Callable[..., Any] = tyro.cli

    def counted_cli(*arguments: Any, args: Sequence[str], **keywords: Any) -> Any:
        parsed.append(args)
        return cli(*arguments, args=args, **keywords)

    monkeypatch.setattr(tyro, "cli", counted_cli)
    return parsed


@pytest.fixture
def arguments(train_file: Path, tmp_path: Path) -> Arguments:
    def made(*more: str, output: str = "run") -> list[str]:
        files = ["--train-file", str(train_file), "--val-file", str(train_file), "--output-dir", str(tmp_path / output)]
        sizes = ["--model-name", "toy", "--device", "cpu", "--batch-size", "4", "--max-length", "16"]
        return ["train", *files, *sizes, "--max-steps", "8", "--epochs", "1", *more]

    return made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def stop_within(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the next training, once, within the optimizer step after the given one."""
    micro_step = Trainer._micro_step

    def stop_after(step: int) -> None:
        def stopping(trainer: Trainer, *rest: Any) -> Any:
            if trainer.state.global_step == step:
                monkeypatch.setattr(Trainer, "_micro_step", micro_step)
                trainer.request_stop()
            return micro_step(trainer, *rest)

        monkeypatch.setattr(Trainer, "_micro_step", stopping)

    return stop_after
