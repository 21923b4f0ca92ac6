"""What tests of whole trainings from the command line read of their output folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file

Arguments: TypeAlias = Callable[..., list[str]]


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one: Path, other: Path) -> None:
    mine, others = weights(one), weights(other)
    assert mine.keys() == others.keys()
    for name, weight in mine.items():
        assert torch.equal(weight, others[name]), name


def record(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "run.json").read_text())
    return read


def events(output: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]
