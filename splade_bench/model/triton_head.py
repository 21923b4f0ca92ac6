"""The streaming head for CUDA in kernels of Triton: no tile of logits is written to memory.

One kernel multiplies, masks, and keeps the running maximum of each entry with its position, as Sparton does (Nguyen et
al., 2026, arXiv 2603.25011). The other kernels sum the gradients without atomic additions, so each sum has a fixed
order. Both directions have the contract of the plain path, which tests compare them with.

On an H100 in bfloat16 it takes 0.34 to 0.57 of the time of tiles in the forward pass, and 0.02 to 0.33 of that of bags
in the backward pass (reports/ACCELERATORS.md). So ``--head streaming`` uses it where it can run. A plan runs everything
here but the kernels, and counts the work of an operator of torch in place of each.

Shapes: B texts, L tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.device.devices import device_type
from splade_bench.device.planned import once_in_plan, planned_device
from splade_bench.errors import ConfigError

# Texts that share a tile of weights have about so many tokens together: their hidden states stay in the cache.
_TOKENS_IN_GROUP = 8192
# Entries that are sorted at a time, as in winner_gradients.py.
_ENTRIES_AT_A_TIME = 2**21
# Terms of a token that one program sums. A token that won every entry has hundreds of chunks.
_CHUNK = 128
# A program of the gradients reads so many rows at a time, and so many elements of each.
_ROWS, _COLUMNS = 8, 256
# tl.dot takes no smaller sides.
_SMALLEST_TILE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    """What a program of the maxima has at a time, at most."""

    entries: int
    tokens: int
    hidden: int
    warps: int
    stages: int


# Of 16-bit types: the shape that was fastest for others on such cards. Without tensor cores a large tile has no use.
_NARROW_TILE = _Tile(entries=128, tokens=128, hidden=64, warps=8, stages=3)
_TILES: Mapping[torch.dtype, _Tile] = MappingProxyType(
    {
        torch.float32: _Tile(entries=64, tokens=64, hidden=32, warps=4, stages=2),
        torch.float16: _NARROW_TILE,
        torch.bfloat16: _NARROW_TILE,
    }
)


# Earlier cards multiply no bfloat16, and the kernels were compiled for none of them.
_LEAST_CAPABILITY = (8, 0)
_COMPILERS = ("cc", "gcc", "clang")


def suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``--head streaming`` computes products of this type in the kernels.

    In a plan for CUDA it does: there torch brings Triton.
    """
    if device_type(device) != "cuda" or dtype not in _TILES:
        return False
    return planned_device() is not None or (
        torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY and _can_compile()
    )


def _is_installed() -> bool:
    return find_spec("triton") is not None


@lru_cache
def _can_compile() -> bool:
    """Whether Triton is installed, and the C compiler with which it builds what launches a kernel."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else _COMPILERS
    return _is_installed() and any(shutil.which(name) for name in compilers)


def require_triton(device: torch.device) -> None:
    """Check that ``--head triton`` can run on this device, or be planned for it.

    Raises:
        ConfigError: it is not CUDA, or the package triton is missing.
    """
    if device_type(device) != "cuda":
        raise ConfigError("--head triton needs CUDA; use --head streaming")
    if planned_device() is None and not _is_installed():
        raise ConfigError(
            "--head triton: the package triton is missing; pip install 'splade-bench[triton]', or use --head streaming"
        )


def fused_max(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, attention_mask: Tensor, *, compute_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The maximum of ``hidden @ weight.T + bias`` over unmasked tokens, and the token that has it.

    Of tied tokens the first wins. Sums and results are in float32, so that logits in a narrow type are not rounded to
    it. A text without tokens gets the logits of its first one, as in the plain path.

    Args:
        hidden: [B, L, H], in any layout.
        weight: [V, H], in any layout.
        bias: [V] or None.
        attention_mask: [B, L], 1 for a token, 0 for padding: right, left or scattered.
        compute_dtype: type of products: float32, float16 or bfloat16.

    Returns:
        Maxima, float32 [B, V], and positions, int32 [B, V].

    Raises:
        ConfigError: the kernel cannot compute in this type.

    Memory: the results, and copies of ``hidden`` and ``weight`` if they have another type.
    """
    if compute_dtype not in _TILES:
        raise ConfigError(f"--head triton cannot compute in {compute_dtype}; use --head streaming")
    hidden, weight = hidden.to(compute_dtype), weight.to(compute_dtype)
    (texts, length, hidden_size), vocab_size = hidden.shape, len(weight)
    tile = _TILES[compute_dtype]
    tile_tokens, tile_hidden = _tile_side(length, tile.tokens), _tile_side(hidden_size, tile.hidden)
    used = F.pad(attention_mask.bool(), (0, -length % tile_tokens))  # [B, tiles * tokens]
    used[:, 0] |= ~used.any(1)
    used_tiles = used.view(texts, -1, tile_tokens).any(2)  # [B, tiles]
    max_logits = torch.empty(texts, vocab_size, dtype=torch.float32, device=hidden.device)
    winners = torch.empty(texts, vocab_size, dtype=torch.int32, device=hidden.device)
    _launch(
        "maxima",
        (texts * -(-vocab_size // tile.entries),),
        *(hidden, weight, bias, used.view(torch.uint8), used_tiles.view(torch.uint8), max_logits, winners),
        *(texts, min(texts, max(1, _TOKENS_IN_GROUP // length)), used_tiles.shape[1], vocab_size),
        *(*hidden.stride(), *weight.stride(), 0 if bias is None else bias.stride(0)),
        hidden_size=hidden_size,
        precision=_product_precision(),
        tile_entries=tile.entries,
        tile_tokens=tile_tokens,
        tile_hidden=tile_hidden,
        num_warps=tile.warps,
        num_stages=tile.stages,
        like=(torch.ops.aten.bmm.default, (hidden, weight.t())),
    )
    return max_logits, winners


def gradients_by_segments(
    grad_logits: Tensor, hidden: Tensor, weight: Tensor, winners: Tensor, target: Tensor | None
) -> Tensor:
    """The gradient of hidden states, float32 [B * L, H]; adds that of the weight to ``target``, unless it is None.

    Sums are in float32, and their order is fixed. Entries without a gradient cost nothing but a place in the sort.

    Args:
        grad_logits: float32 [B, V], 0 where an entry is not active.
        hidden: [B, L, H], in any layout.
        weight: [V, H], in any layout.
        winners: int32 [B, V], each a token of its text.
        target: the weight's gradient so far, [V, H].

    Memory: the result; for 2 million entries at a time, about 60 MiB to sort them, and a row [H] of float32 for each
    128 of them.
    """
    grad_logits, winners = grad_logits.contiguous(), winners.contiguous()
    (texts, length, hidden_size), vocab_size = hidden.shape, len(weight)
    if target is not None:
        tile_hidden = _tile_side(hidden_size, _COLUMNS)
        _launch(
            "weight_gradient",
            (-(-vocab_size // _ROWS), -(-hidden_size // tile_hidden)),
            *(grad_logits, winners, hidden, target, texts, vocab_size, *hidden.stride(), *target.stride()),
            hidden_size=hidden_size,
            tile_entries=_ROWS,
            tile_hidden=tile_hidden,
            like=(torch.ops.aten._embedding_bag.default, (weight, winners)),
        )
    result = weight.new_empty(texts * length, hidden_size, dtype=torch.float32)
    at_a_time = max(1, _ENTRIES_AT_A_TIME // vocab_size)
    for start in once_in_plan(range(0, texts, at_a_time), key=lambda start: min(at_a_time, texts - start)):
        block = slice(start, start + at_a_time)
        _sum_by_token(grad_logits[block], winners[block], weight, result.view(texts, length, hidden_size)[block])
    return result


def _sum_by_token(grad_logits: Tensor, winners: Tensor, weight: Tensor, result: Tensor) -> None:
    """The gradient of the hidden states of a few texts, into ``result`` [b, L, H].

    Sorted by token, the terms of a token are a segment. It is cut into full chunks, each summed by one program into a
    row of a buffer, and a rest, which is summed with those rows by the token's own program. So no program sums one term
    after another for long, and the buffer's size depends on shapes alone.
    """
    (texts, vocab_size), (_, length, hidden_size) = grad_logits.shape, result.shape
    tokens, device = texts * length, result.device
    first = torch.arange(texts, dtype=torch.int32, device=device) * length
    # Entries without a gradient get a token behind all others.
    keys = torch.where(grad_logits != 0, winners + first.unsqueeze(1), tokens)  # int32 [b, V]
    ordered, order = torch.sort(keys.view(-1), stable=True)
    numbers = torch.arange(tokens + 1, dtype=torch.int32, device=device)
    starts = torch.searchsorted(ordered, numbers, out_int32=True)
    chunk_ends = (starts.diff() // _CHUNK).cumsum(0, dtype=torch.int32)  # [b * L]
    chunks = torch.arange(len(ordered) // _CHUNK, dtype=torch.int32, device=device)
    chunk_tokens = torch.searchsorted(chunk_ends, chunks, right=True, out_int32=True)
    partial = torch.empty(len(chunks), hidden_size, dtype=torch.float32, device=device)
    tile_hidden = _tile_side(hidden_size, _COLUMNS)
    tiles = -(-hidden_size // tile_hidden)
    sizes: dict[str, Any] = dict(hidden_size=hidden_size, chunk=_CHUNK, tile_terms=_ROWS, tile_hidden=tile_hidden)
    terms, strides = (order, grad_logits, weight, starts, chunk_ends), (vocab_size, *weight.stride())
    _launch("chunk_sums", (len(chunks), tiles), *terms, chunk_tokens, partial, tokens, *strides, **sizes)
    like = torch.ops.aten._embedding_bag.default, (weight, order)
    _launch("hidden_gradient", (tokens, tiles), *terms, partial, result, *strides, **sizes, like=like)


def _launch(
    kernel: str,
    grid: tuple[int, ...],
    *arguments: Any,
    like: tuple[Any, tuple[Tensor, ...]] | None = None,
    **options: Any,
) -> None:
    """Run a kernel. A plan counts the work of the operator and arguments in ``like`` instead."""
    planned = planned_device()
    if planned is None:
        kernels = import_module("splade_bench.model.triton_kernels")
        # Said here, because Triton 3.9 announces another default: products without tensor cores need it.
        getattr(kernels, kernel)[grid](*arguments, **options, enable_fp_fusion=True)
    elif like:
        planned.work.on_operator(*like, {}, ())


def _tile_side(size: int, most: int) -> int:
    """The smallest power of two that ``size`` fits into, within the limits of a tile."""
    return min(most, max(_SMALLEST_TILE, 1 << (size - 1).bit_length()))


def _product_precision() -> str:
    """How a kernel multiplies float32: as torch does on CUDA. Narrow types are not affected."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
