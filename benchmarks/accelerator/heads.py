"""The head alone on a device: its error, its forward pass over tile sizes and shapes, and the ways of its backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from torch import Tensor

from accelerator.on_device import (
    Row,
    added_peak_bytes,
    changed_settings,
    device_of,
    fields_of,
    relative_error,
    row_or_error,
    seconds,
)
from splade_bench.model.head import pool, splade_max, splade_max_eager
from splade_bench.model.presets import ALL_ACTIVE_BIAS, bias_for_active_share

_MIB = 2**20
_PRODUCT_BYTES = 2**30
# Elements. Products with other row lengths are slower on tensor cores.
_ALIGNED_TO = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Shape:
    """Texts, their length, the hidden size and the vocabulary."""

    texts: int
    length: int
    hidden_size: int
    vocab_size: int

    @property
    def name(self) -> str:
        return f"{self.texts} x {self.length} x {self.hidden_size} x {self.vocab_size}"


SPARTON = Shape(320, 512, 768, 30522)
SHAPES = (SPARTON, Shape(96, 256, 768, 30522), Shape(32, 128, 768, 30522), Shape(32, 256, 768, 250002))
SHRUNK = (Shape(6, 32, 32, 3000), Shape(2, 16, 32, 20000))
TILES = ((16, 4096), (32, 8192), (64, 8192), (64, 16384), (128, 16384))  # MiB, tokens
SHRUNK_TILES = ((1, 64),)


def head_errors(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """Relative error of vectors and gradients against float64 on the CPU, ours beside eager's."""
    device = device_of(device_name)
    rows = []
    for precision, (texts, length) in product(DTYPES, ((5, 33), (16, 128))):
        shape = Shape(texts, length, 64, 2500)
        hidden, weight, bias, mask = _inputs(shape, torch.device("cpu"), torch.float32, active_share=0.3)
        inputs = [part.bfloat16().float() for part in (hidden, weight, bias)]  # numbers that both types have
        exact = _results(splade_max_eager, [part.double() for part in inputs], mask, None)
        autocast = None if precision == "fp32" else DTYPES[precision]
        on_device = [part.to(device) for part in inputs]
        heads: dict[str, Any] = {"relative_error": partial(splade_max, fused=False), "eager_error": splade_max_eager}
        if has_triton_head(device):
            heads["triton_error"] = partial(splade_max, fused=True)
        row: Row = {"shape": shape.name, "precision": precision}
        for name, head in heads.items():
            row[name] = relative_error(_results(head, on_device, mask.to(device), autocast), exact)
        rows.append(row)
    return fields_of("head errors", device_name, rows, shrunk=shrunk)


def head_forward(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """The forward pass with winners, for each size of tiles, beside the bare product."""
    device, rows = device_of(device_name), []
    for shape, tiles in product(_shapes(shrunk), (None, *(SHRUNK_TILES if shrunk else TILES))):
        changes = {} if tiles is None else {"tile_bytes": tiles[0] * _MIB, "tile_tokens": tiles[1]}
        row = {"shape": shape.name, "tile": "default" if tiles is None else f"{tiles[0]} MiB, {tiles[1]} tokens"}
        with changed_settings(device.type, **changes):
            rows.append(row_or_error(row, partial(_forward, shape, device)))
    for shape in _shapes(shrunk) if has_triton_head(device) else ():
        row = {"shape": shape.name, "tile": "--head triton"}
        rows.append(row_or_error(row, partial(_forward, shape, device, fused=True)))
    return fields_of("head forward", device_name, rows, shrunk=shrunk)


def head_backward(device_name: str, *, shrunk: bool) -> dict[str, Any]:
    """The backward pass in each way, by the share of active entries, evenly spread or most of them from one token."""
    device, rows = device_of(device_name), []
    shapes = _shapes(shrunk)[: 1 if shrunk else 2]
    ways: dict[str, dict[str, Any]] = {way: {"head_backward": way} for way in ("bags", "products", "entries")}
    ways["entries"]["may_read"] = True
    if has_triton_head(device):
        ways["--head triton"] = {}
    for shape, active_share, hot in product(shapes, (1.0, 0.1, 0.01), (False, True)):
        for way, changes in ways.items():
            row = {"shape": shape.name, "active_share": active_share, "one token wins": "most" if hot else "few"}
            with changed_settings(device.type, winners_pay_from=0.0, **changes):
                inputs: dict[str, Any] = {"active_share": active_share, "hot": hot, "fused": not changes}
                rows.append(row_or_error(row | {"way": way}, partial(_backward, shape, device, **inputs)))
    return fields_of("head backward", device_name, rows, shrunk=shrunk)


def has_triton_head(device: torch.device) -> bool:
    """Whether ``--head triton`` can run, whose figures decide whether it is kept."""
    return device.type == "cuda" and find_spec("triton") is not None


def _shapes(shrunk: bool) -> tuple[Shape, ...]:
    return SHRUNK if shrunk else SHAPES


def _forward(shape: Shape, device: torch.device, *, fused: bool = False) -> Row:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    hidden, weight, bias, mask = _inputs(shape, device, dtype, active_share=None)
    run = partial(pool, hidden, weight, bias, mask, keep_winners=True, fused=fused)
    product_s, time_s = seconds(_bare_product(hidden, weight), device), seconds(run, device)
    return {
        "product_s": product_s,
        "time_s": time_s,
        "ratio": time_s / product_s,
        "added_bytes": added_peak_bytes(run, device),
    }


def _backward(shape: Shape, device: torch.device, *, active_share: float, hot: bool, fused: bool) -> Row:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    hidden, weight, bias, mask = _inputs(shape, device, dtype, active_share=active_share, hot=hot)
    weight, bias = weight.float(), bias.float()  # parameters are float32 under autocast
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    pooled = pool(hidden, weight, bias, mask, keep_winners=True, fused=fused)
    upstream = torch.randn(pooled.reps.shape, device=device)

    def run() -> None:
        hidden.grad = None
        reps = splade_max(hidden, weight, bias, mask, pooled=pooled, in_place_gradients=True, fused=fused)
        reps.backward(upstream)

    return {"time_s": seconds(run, device), "added_bytes": added_peak_bytes(run, device)}


def _bare_product(hidden: Tensor, weight: Tensor) -> Callable[[], object]:
    """The product that every head needs, into an output that exists: of slices of the vocabulary if it is large."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    most = _PRODUCT_BYTES // (len(tokens) * hidden.element_size())
    entries = max(_ALIGNED_TO, min(len(weight), most) // _ALIGNED_TO * _ALIGNED_TO)
    out = tokens.new_empty(len(tokens), entries)  # aligned rows, also for the last slice

    def run() -> None:
        for rows in weight.split(entries):
            torch.mm(tokens, rows.t(), out=out[:, : len(rows)])

    return run


def _inputs(
    shape: Shape, device: torch.device, dtype: torch.dtype, *, active_share: float | None, hot: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and mask, under which a share of the entries is active."""
    torch.manual_seed(0)
    hidden = torch.randn(shape.texts, shape.length, shape.hidden_size, device=device)
    if hot:
        hidden[:, 0] *= 4
    weight = torch.randn(shape.vocab_size, shape.hidden_size, device=device) / shape.hidden_size**0.5
    bias = torch.zeros(shape.vocab_size, device=device)
    mask = torch.ones(shape.texts, shape.length, dtype=torch.int64, device=device)
    if active_share is not None:
        few = slice(0, min(shape.texts, 8))
        vectors = pool(hidden[few], weight, bias + ALL_ACTIVE_BIAS, mask[few]).reps.cpu()
        bias += bias_for_active_share(vectors, active_share)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), mask


def _results(head: Any, inputs: list[Tensor], mask: Tensor, autocast: torch.dtype | None) -> list[Tensor]:
    """Vectors, and the gradients of hidden states, weight and bias for one upstream gradient."""
    leaves = [part.detach().clone().requires_grad_() for part in inputs]
    with torch.autocast(mask.device.type, autocast, enabled=autocast is not None):
        reps = head(*leaves, mask)
    upstream = torch.randn(reps.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return [reps, *torch.autograd.grad(reps, leaves, upstream.to(reps))]
