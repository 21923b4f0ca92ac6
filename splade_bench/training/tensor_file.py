"""Tensors in a safetensors file, written and read piece by piece: it takes the memory of one piece, whatever the size.

safetensors' own functions take all tensors at once, or map the file, whose resident pages then count as this process's
memory. The format: the header's size in 8 bytes, the header in JSON, and then the tensors without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from splade_bench.errors import DataError, NotFiniteError

# Elements of a piece: 4 MiB in float32.
PIECE_ELEMENTS = 2**20

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_HEADER_SIZE_BYTES = 8
_ALIGNMENT_BYTES = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class StreamedTensor:
    """A tensor that may never be in memory as a whole.

    ``pieces`` is called once. It gives tensors of type ``dtype``, on any device, whose elements in their order are the
    elements of the whole. A piece may use the memory of the one before.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> StreamedTensor:
        """A tensor of any shape, layout and device, copied to the CPU piece by piece."""
        return cls(name, tensor.dtype, tuple(tensor.shape), lambda: _pieces(tensor.detach()))

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Iterable[StreamedTensor], *, require_finite: bool = False) -> None:
    """Write a new safetensors file. It is not synced, and it is deleted if this fails.

    Memory: one piece.

    Args:
        path: the new file.
        tensors: in any order; they are sorted by the size of their types.
        require_finite: refuse numbers that are NaN or infinite.

    Raises:
        NotFiniteError: a tensor has such a number; the text names it.
        ValueError: the pieces of a tensor do not make up its type and shape; the text names it.
        OSError: the file exists, or cannot be written.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)  # so that each is aligned to its type
    header = _header(ordered)
    file = path.open("xb")
    try:
        with file:
            file.write(header)
            for tensor in ordered:
                for piece in _checked_pieces(tensor, require_finite=require_finite):
                    file.write(_memory(piece))
    except BaseException:
        path.unlink()  # it is closed by now: Windows deletes no open file
        raise


class TensorReader:
    """Reads the tensors of a safetensors file by windows; use it in a ``with`` statement.

    Memory: one window.

    Raises:
        DataError: the file cannot be read or is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt"):  # checks the header against the size of the file
                pass
            self._file = path.open("rb", buffering=0)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read as a safetensors file: {error}") from error
        size_bytes = int.from_bytes(self._file.read(_HEADER_SIZE_BYTES), "little")
        self._entries: dict[str, dict[str, Any]] = json.loads(self._file.read(size_bytes))
        self._start = _HEADER_SIZE_BYTES + size_bytes
        self._entries.pop(_METADATA, None)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The names of all tensors, in alphabetical order."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            DataError: the file does not have it.
        """
        return tuple(self._entry(name)["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor.

        Raises:
            DataError: the file does not have it, or torch does not have its type.
        """
        type_name = self._entry(name)["dtype"]
        if type_name not in _TYPES:
            raise DataError(f"{self.path}: {name} has the type {type_name}, which cannot be read")
        return _TYPES[type_name]

    def window(self, name: str, window: slice) -> Tensor:
        """Some elements of a flattened tensor, [N] on the CPU.

        Args:
            name: of the tensor.
            window: first element and the one after the last, without a step.

        Raises:
            DataError: the file does not have the tensor or has fewer elements.
        """
        dtype, elements = self.dtype(name), prod(self.shape(name))
        start, stop, _ = window.indices(elements)
        values = torch.empty(max(0, stop - start), dtype=dtype)
        self._file.seek(self._start + self._entry(name)["data_offsets"][0] + start * dtype.itemsize)
        if values.numel() and self._file.readinto(_memory(values)) != values.nbytes:
            raise DataError(f"{self.path}: {name} was cut while it was read")
        return values

    def pieces(self, name: str) -> Iterator[Tensor]:
        """All elements of a tensor in their order, as [N] on the CPU, a new tensor for each piece."""
        elements = prod(self.shape(name))
        for start in range(0, elements, PIECE_ELEMENTS):
            yield self.window(name, slice(start, min(start + PIECE_ELEMENTS, elements)))

    def read(self, name: str) -> Tensor:
        """A whole tensor, on the CPU."""
        return self.window(name, slice(None)).view(self.shape(name))

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise DataError(f"{self.path}: has no tensor {name}")
        return self._entries[name]


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's elements in their order. One that is not contiguous is copied by rows, not as a whole."""
    if tensor.is_contiguous():
        yield from tensor.view(-1).split(PIECE_ELEMENTS)
    else:
        yield from tensor.split(max(1, PIECE_ELEMENTS * len(tensor) // tensor.numel()))


def _checked_pieces(tensor: StreamedTensor, *, require_finite: bool) -> Iterator[Tensor]:
    """The pieces of ``tensor`` as contiguous tensors on the CPU."""
    missing = prod(tensor.shape)
    for piece in tensor.pieces():
        missing -= piece.numel()
        if piece.dtype != tensor.dtype or missing < 0:
            break
        if require_finite and piece.is_floating_point() and not bool(piece.isfinite().all()):
            raise NotFiniteError(
                f"{tensor.name} has a number that is NaN or infinite, so it is not saved; lower --learning-rate"
            )
        yield piece.detach().to("cpu").contiguous()
    else:
        if missing == 0:
            return
    expected = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    raise ValueError(f"the pieces of {tensor.name} are not {expected}")


def _header(ordered: list[StreamedTensor]) -> bytes:
    """The header's size and the header, which ends in spaces so that the tensors after it are aligned."""
    entries: dict[str, Any] = {}
    end = 0
    for tensor in ordered:
        if tensor.name in entries or tensor.name == _METADATA:
            raise ValueError(f"{tensor.name} cannot be the name of a tensor, or two tensors have it")
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{tensor.name} has the type {tensor.dtype}, which cannot be written")
        start, end = end, end + tensor.size_bytes
        entries[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_HEADER_SIZE_BYTES, "little") + text


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor of the CPU; numpy does not have bfloat16."""
    return tensor.view(-1).view(torch.uint8).numpy().data
