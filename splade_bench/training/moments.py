"""AdamW's two moments in less memory than two tensors of each parameter's size and type.

A moment is read and written one window at a time: some elements of one parameter, in the parameter's type.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from splade_bench.device.devices import device_type
from splade_bench.device.reads import read_file, reserved_file, write_file
from splade_bench.errors import ConfigError
from splade_bench.files import large_files_folder
from splade_bench.model.rng import random_int16
from splade_bench.units import format_bytes

# Elements of a window, which takes 2 x 4 MiB in float32.
WINDOW_ELEMENTS = 2**20


class Moments(Protocol):
    """A place for the first and second moment of each parameter. Both start as zeros."""

    def own(self, parameter: Tensor) -> slice:
        """The elements of a parameter whose moments are kept here: all, unless other processes have some."""
        return slice(0, parameter.numel())

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        """Both moments of a window, in the type and on the device of ``parameter``, valid until the next call."""

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        """Keep the moments that :meth:`load` returned, updated."""

    def kept(self, parameter: Tensor, row: int, window: slice) -> Tensor:
        """The first (``row`` 0) or second (1) moment of a window exactly as it is kept, for a checkpoint."""

    def keep(self, parameter: Tensor, row: int, window: slice, moment: Tensor) -> None:
        """Put back what :meth:`kept` returned."""

    def share_updated(self, parameters: Sequence[Tensor]) -> None:
        """After an optimizer step of these parameters: get the elements that others have updated."""
        return


class Bfloat16Moments(Moments):
    """Both moments in bfloat16, rounded up or down at random.

    Rounding to the nearest would lose most updates: with a decay of 0.999, the second moment changes by less than half
    of bfloat16's spacing. Random rounding, in proportion to the distance, is right in the mean (Zamirai et al., 2020,
    "Revisiting BFloat16 Training"). Inexact: each moment has a relative error of up to 2^-8.

    Memory: 4 bytes per parameter; float32 takes 8.
    """

    def __init__(self, *, seed: int) -> None:
        self._moments: dict[Tensor, Tensor] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = seed

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        first, second = self._of(parameter)[:, window].to(parameter.dtype)
        return first, second

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        for kept, moment in zip(self._moments[parameter], moments, strict=True):
            kept[window] = round_at_random(moment, self.generator(parameter.device))

    def kept(self, parameter: Tensor, row: int, window: slice) -> Tensor:
        return self._of(parameter)[row, window]

    def keep(self, parameter: Tensor, row: int, window: slice, moment: Tensor) -> None:
        self._of(parameter)[row, window] = moment

    def generator(self, device: torch.device) -> torch.Generator:
        """Draws the directions of rounding: its own, so that dropout draws the same numbers as with other moments."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def _of(self, parameter: Tensor) -> Tensor:
        """Both moments of a parameter, [2, elements]."""
        if parameter not in self._moments:
            shape = 2, parameter.numel()
            self._moments[parameter] = torch.zeros(shape, dtype=torch.bfloat16, device=parameter.device)
        return self._moments[parameter]


class DiskMoments(Moments):
    """Both moments in an unnamed file, which the system removes with the process.

    Exact. The file is read and written, not mapped: resident pages of a mapping would count as this process's memory.
    The system may cache the file in memory that no process needs.

    Memory: one window; on disk 8 bytes per parameter.

    Raises:
        ConfigError: the folder has no room for the file.
    """

    def __init__(self, parameters: Sequence[Tensor], *, folder: str | None) -> None:
        self._offsets: dict[Tensor, int] = {}
        size_bytes = 0
        for parameter in parameters:
            self._offsets[parameter] = size_bytes
            size_bytes += 2 * parameter.nbytes
        self._buffers: dict[torch.dtype, Tensor] = {}
        folder = moments_folder(folder)
        try:
            self._file = reserved_file(folder, size_bytes)
        except OSError as error:
            raise _refusal(folder, size_bytes, error.strerror) from error
        weakref.finalize(self, self._file.close)

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        moments = self._read(parameter, window)
        # In a plan for an accelerator parameters are on the CPU, but the buffer must be copied as to the accelerator.
        first, second = moments.to(parameter.device, copy=device_type(parameter.device) != "cpu")
        return first, second

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        buffer = self._buffer(parameter, window)
        for row, moment in zip(buffer, moments, strict=True):
            row.copy_(moment)  # on the CPU, where the moment is the row, this does nothing
        write_file(self._file, self._offset(parameter, window), buffer)

    def kept(self, parameter: Tensor, row: int, window: slice) -> Tensor:
        return self._read(parameter, window)[row]

    def keep(self, parameter: Tensor, row: int, window: slice, moment: Tensor) -> None:
        moments = self._read(parameter, window)
        moments[row] = moment
        write_file(self._file, self._offset(parameter, window), moments)

    def _read(self, parameter: Tensor, window: slice) -> Tensor:
        """Both moments of a window, [2, elements], on the CPU."""
        moments = self._buffer(parameter, window)
        if not read_file(self._file, self._offset(parameter, window), moments):
            raise OSError("--optimizer-states disk: the file of optimizer states was truncated during training")
        return moments

    def _buffer(self, parameter: Tensor, window: slice) -> Tensor:
        """Room for both moments of a window, on the CPU, used for every window."""
        if parameter.dtype not in self._buffers:
            self._buffers[parameter.dtype] = torch.empty(2 * WINDOW_ELEMENTS, dtype=parameter.dtype)
        elements = window.stop - window.start
        return self._buffers[parameter.dtype][: 2 * elements].view(2, elements)

    def _offset(self, parameter: Tensor, window: slice) -> int:
        """Offset of a window in the file. Each window has its two moments side by side."""
        start: int = window.start
        return self._offsets[parameter] + 2 * start * parameter.element_size()


def moments_folder(named: str | None) -> str:
    """The folder of moments on disk: ``named``, or the system's for large temporary files."""
    return named or large_files_folder()


def require_room(folder: str | None, size_bytes: int) -> None:
    """Raise a :class:`ConfigError` if the folder of moments on disk has no room for this size."""
    folder = moments_folder(folder)
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise _refusal(folder, size_bytes, error.strerror) from error
    if free_bytes < size_bytes:
        raise _refusal(folder, size_bytes, f"{format_bytes(free_bytes)} are free")


def _refusal(folder: str, size_bytes: int, reason: str | None) -> ConfigError:
    return ConfigError(
        f"--optimizer-states disk: {format_bytes(size_bytes)} cannot be kept in {folder}: {reason}; "
        "name another folder with --optimizer-states-dir"
    )


def windows(elements: int, start: int = 0) -> list[slice]:
    """The elements from ``start`` to ``elements`` cut into windows."""
    starts = range(start, elements, WINDOW_ELEMENTS)
    return [slice(start, min(start + WINDOW_ELEMENTS, elements)) for start in starts]


def round_at_random(numbers: Tensor, generator: torch.Generator) -> Tensor:
    """``numbers`` in bfloat16, each rounded to one of its two neighbours at random, with the same mean: [N] -> [N]."""
    bits = numbers.to(torch.float32, copy=True).view(torch.int32)
    # Draws from 0 to 2^16 - 1 carry into the upper half in proportion to the lower half.
    bits.add_(random_int16(len(bits), bits.device, generator)).add_(2**15)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16)
