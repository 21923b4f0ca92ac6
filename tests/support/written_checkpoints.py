"""A checkpoint of some tensors and a file in a folder, for the tests of the store and of its faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from splade_bench.training.tensor_file import StreamedTensor, write_tensors


def write(folder: Path, *, value: float) -> None:
    """What a training writes: streamed tensors, a file of the library safetensors, and JSON in a folder."""
    write_tensors(folder / "moments.safetensors", [StreamedTensor.of("a", torch.full((3, 5), value))])
    try:
        save_file({"a": torch.full((3, 5), value)}, folder / "model.safetensors")
    except SafetensorError as error:
        raise OSError from error
    (folder / "state").mkdir()
    (folder / "state" / "trainer.json").write_text(json.dumps({"value": value}))


def writer(value: float) -> Callable[[Path], None]:
    return lambda folder: write(folder, value=value)
