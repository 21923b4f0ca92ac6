"""A whole step on a device: its error, its operators, its gaps, and the largest batch under a limit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from operator_counts import count_operators
from torch import Tensor, nn
from torch._C._autograd import DeviceType

from accelerator.on_device import Row, Run, device_of, fields_of, relative_error
from splade_bench.config import TrainConfig
from splade_bench.device.devices import empty_cache
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.grid.cell import OWN_TRAINER, PEER_MODE
from splade_bench.measure.device import device_memory
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext, direct_step
from splade_bench.training.trainer import Trainer
from splade_bench.worker.peers import PeerTrainer, make_peer

_GIB = 2**30
_LIMIT_BYTES = 8 * _GIB
_LARGEST_TRIED = 512
MODE, PLAIN_MODE = "memory-efficient", "standard"
PEER = "SpladeLoss"
_NO_PEER = {"trainer": PEER, "queries": None, "error": "sentence-transformers is not installed"}
_COPIES = ("Memcpy", "Memset")
_WAITING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def step_errors(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """Relative error of a step's gradients against float64 on the CPU, of each memory mode."""
    device, run = device_of(device_name), Run("toy" if shrunk else "bert-tiny", 4, 32)
    start = run.encoder(torch.device("cpu"))
    exact = _gradients(copy.deepcopy(start).double(), run, run.config(PLAIN_MODE, mixed_precision="no"))
    rows = []
    for precision in ("no", "bf16"):
        for mode in MEMORY_MODES:
            config = run.config(mode, mixed_precision=precision)
            error = relative_error(_gradients(copy.deepcopy(start).to(device), run, config), exact)
            rows.append({"precision": precision, "memory_mode": mode, "relative_error": error})
    return fields_of("step errors", device_name, rows, shrunk=shrunk)


def operators(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """Operators of a step on an accelerator's paths, beside those of the plain model; the same on every device."""
    return fields_of("operators", device_name, count_operators(), shrunk=shrunk)


def gaps(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """Where the device waits for its host in an optimizer step, from torch's profiler."""
    device, run = device_of(device_name), Run.of(shrunk=shrunk)
    encoder = run.encoder(device)
    config = run.config(MODE, max_steps=3)
    Trainer(encoder, run.batches(encoder, MODE), config).train()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    trainer = Trainer(encoder, run.batches(encoder, MODE), replace(config, max_steps=2))
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        trainer.train()  # it reads its losses at last, and so waits for the device
    return fields_of("gaps", device_name, [_gaps(profile, steps=2)], shrunk=shrunk)


def largest_batches(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """The most queries of a batch that train within 8 GiB of the device's memory, to within a tenth.

    A first step on a few tokens makes AdamW's moments.
    """
    device, run = device_of(device_name), Run.of(shrunk=shrunk)
    largest_tried = 8 if shrunk else _LARGEST_TRIED
    if device.type != "cpu" and not shrunk:
        device_memory(device.type).limit(_LIMIT_BYTES)

    encoder = run.encoder(device)

    def own(batch_size: int) -> bool:
        sized = replace(run, batch_size=batch_size)
        batches = sized.batches(encoder, MODE, warm_up=True)
        return _fits(Trainer(encoder, batches, sized.config(MODE, max_steps=2)), encoder)

    rows = [_batch_row(OWN_TRAINER, _largest(own, largest_tried), largest_tried)]
    if find_spec("sentence_transformers") is None:
        return fields_of("largest batches", device_name, [*rows, _NO_PEER], shrunk=shrunk)
    with TemporaryDirectory() as name:
        encoder.save_pretrained(Path(name))
        encoder.to("meta")  # its memory is the peer's now
        empty_cache(device)
        peer = make_peer(PEER, None, Path(name), run.config(PEER_MODE), device)

        def other(batch_size: int) -> bool:
            sized = replace(run, batch_size=batch_size)
            batches, config = sized.batches(encoder, PEER_MODE, warm_up=True), sized.config(PEER_MODE, max_steps=2)
            return _fits(PeerTrainer(peer, batches, config), peer.model)

        rows.append(_batch_row(PEER, _largest(other, largest_tried), largest_tried))
    return fields_of("largest batches", device_name, rows, shrunk=shrunk)


def _batch_row(trainer: str, queries: int, most: int) -> Row:
    return {"trainer": trainer, "queries": queries, "more were tried": "no" if 2 * queries > most else "yes"}


def _gradients(encoder: SpladeEncoder, run: Run, config: TrainConfig) -> list[Tensor]:
    encoder.configure(config.memory, mixed_precision=config.mixed_precision)
    encoder.train()
    step = gradcache_step if config.memory.gradient_caching else direct_step
    batch = next(run.batches(encoder, MODE).batches(0))
    step(encoder, batch, SpladeLoss(config), StepContext(active_share=0.01))
    return [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]


def _fits(trainer: Trainer | PeerTrainer, model: nn.Module) -> bool:
    """Whether a training of the model does not run out of memory. The model is left without gradients."""
    device = next(model.parameters()).device
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del trainer
        model.zero_grad(set_to_none=True)
        gc.collect()
        empty_cache(device)
    return True


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number that fits, or the largest tried: doubled until one does not fit, then between the two."""
    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    if bad > most:
        return good
    while bad - good > max(1, good // 10):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _gaps(profile: torch.profiler.profile, *, steps: int) -> Row:
    """Kernels and waiting calls of a step, and the share of its time in which no kernel runs."""
    events = profile.events() or []
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(_COPIES)
        and event.time_range.end > event.time_range.start
    )
    waits = sum(event.name.startswith(_WAITING_CALLS) for event in events)
    row: Row = {"kernels_per_step": len(kernels) / steps, "waits_per_step": waits / steps}
    if not kernels:
        return {name: None for name in row} | {"gap_share": None, "step_s": None}
    span, busy = kernels[-1][1] - kernels[0][0], covered(kernels)
    return row | {"gap_share": 1 - busy / span, "step_s": span / steps / 1e6}


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, which are sorted by their start."""
    total = 0.0
    end = intervals[0][0]
    for start, stop in intervals:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
