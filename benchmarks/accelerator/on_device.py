"""What the parts of the accelerator suite share: the device, the sizes, times and peaks on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device import settings
from splade_bench.device.devices import resolve_device, synchronize
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import error_line
from splade_bench.measure.device import device_memory
from splade_bench.measure.machine import machine_info
from splade_bench.memory_modes import memory_mode
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, build_preset, set_active_share

ROUNDS = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """The model and the batch of the full step: BERT-base in bf16, or a small one where times say nothing."""

    model_name: str
    batch_size: int
    max_length: int

    @classmethod
    def of(cls, *, shrunk: bool) -> Run:
        return cls("tiny", 4, 32) if shrunk else cls("base", 32, 256)

    def config(self, mode: str, **changes: Any) -> TrainConfig:
        fields: dict[str, Any] = {
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "mixed_precision": "bf16",
            "memory": memory_mode(mode),
        }
        return TrainConfig(**fields | changes)

    def encoder(self, device: torch.device) -> SpladeEncoder:
        """With vectors as sparse as those of a trained model."""
        vocab_size = MODEL_PRESETS[self.model_name].vocab_size
        encoder = build_preset(self.model_name, train_tokenizer((), vocab_size=vocab_size), seed=0).to(device)
        one = replace(self, batch_size=1).batches(encoder, "memory-efficient")
        set_active_share(encoder, next(one.batches(0)).documents[0].to(device), TRAINED_ACTIVE_SHARE)
        return encoder

    def batches(self, encoder: SpladeEncoder, mode: str, *, warm_up: bool = False) -> SyntheticBatches:
        return SyntheticBatches(
            batch_size=self.batch_size,
            max_length=self.max_length,
            vocab_size=encoder.vocab_size,
            negatives_per_query=1,
            batches_per_epoch=1000,
            seed=0,
            lengths="full",
            padding=memory_mode(mode).padding,
            warm_up=warm_up,
        )


def fields_of(part: str, device_name: str, rows: list[Row], *, shrunk: bool) -> dict[str, Any]:
    """The fields of an :class:`splade_bench.results.accelerator.AcceleratorResult`."""
    card = torch.cuda.get_device_name() if device_name == "cuda" else device_name
    return {
        "part": part,
        "device": device_name,
        "shrunk": shrunk,
        "rows": rows,
        "machine": machine_info() | {"threads": torch.get_num_threads(), "device": card},
    }


def device_of(name: str) -> torch.device:
    return resolve_device(name, force=True)  # type: ignore[arg-type]


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median over rounds, after one that is not counted."""
    times_s = []
    for _ in range(ROUNDS + 1):
        synchronize(device)
        start_s = time.perf_counter()
        call()
        synchronize(device)
        times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s[1:])


def added_peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak of live tensors during a call above those before it; None where the device does not say."""
    if device.type != "cuda":
        return None
    before_bytes = torch.cuda.memory_allocated()
    memory = device_memory(device.type)
    memory.start()
    call()
    synchronize(device)
    peak_bytes = memory.read().allocated_bytes
    return None if peak_bytes is None else peak_bytes - before_bytes


def row_or_error(row: Row, measure: Callable[[], Row]) -> Row:
    """The row with its figures, or with the reason why there are none: one shape that does not fit ends no part."""
    try:
        return row | measure()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return row | {"error": error_line(error)}


@contextmanager
def changed_settings(kind: str, **changes: Any) -> Iterator[None]:
    """Inside the block, the settings of this kind of device are changed."""
    before = settings.SETTINGS
    settings.SETTINGS = {**before, kind: replace(before[kind], **changes)}
    try:
        yield
    finally:
        settings.SETTINGS = before


def relative_error(actual: list[Tensor], exact: list[Tensor]) -> float:
    """L2 norm of all differences over that of the exact values."""
    pairs = [
        (ours.detach().cpu().double(), right.detach().cpu().double()) for ours, right in zip(actual, exact, strict=True)
    ]
    difference = sum(float((ours - right).square().sum()) for ours, right in pairs)
    return float((difference / sum(float(right.square().sum()) for _, right in pairs)) ** 0.5)
