"""AdamW's two moments where they take less memory than two tensors of each parameter's size and type.

A moment is read and written a window at a time: elements of one parameter, in the parameter's own type while they are
being updated.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from splade_bench.device.reads import read_file, reserved_file, write_file
from splade_bench.errors import ConfigError
from splade_bench.model.rng import random_int16
from splade_bench.units import format_bytes

# Elements of a window: two moments of 4 MiB each in float32.
WINDOW_ELEMENTS = 2**20
# On disk by convention (Filesystem Hierarchy Standard), where /tmp is often a file system in memory.
_DISK_FOLDER = Path("/var/tmp")


class Moments(Protocol):
    """Where the first and second moment of each parameter are kept; both start as zeros."""

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        """Both moments of a window, in the type and on the device of ``parameter``; good until the next call."""

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        """Keep what :meth:`load` gave, updated."""


class Bfloat16Moments:
    """Both moments in bfloat16, rounded up or down at random.

    Rounding to the nearest would lose most updates: with a decay of 0.999 the second moment changes by less than half
    of bfloat16's spacing. Rounded at random, in proportion to the distance, it is right in the mean (Zamirai et al.,
    2020, "Revisiting BFloat16 Training"). Inexact: each moment carries a relative error of up to 2^-8.

    Memory: 4 bytes a parameter, where float32 takes 8.
    """

    def __init__(self, *, seed: int) -> None:
        self._moments: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = seed

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        if parameter not in self._moments:
            zeros = torch.zeros(2, parameter.numel(), dtype=torch.bfloat16, device=parameter.device)
            self._moments[parameter] = zeros[0], zeros[1]
        first, second = self._moments[parameter]
        return first[window].to(parameter.dtype), second[window].to(parameter.dtype)

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        # A generator of their own: dropout draws the same numbers whatever the optimizer keeps.
        if parameter.device not in self._generators:
            self._generators[parameter.device] = torch.Generator(parameter.device).manual_seed(self._seed)
        for kept, moment in zip(self._moments[parameter], moments, strict=True):
            kept[window] = round_at_random(moment, self._generators[parameter.device])


class DiskMoments:
    """Both moments in a file without a name, which the system removes with the process.

    Exact. Reads and writes go through the file, not through a mapping of it: resident pages of a mapping would count
    as this process's memory. The system may keep the file in its cache as long as nobody else wants that memory.

    Memory: one window; on disk 8 bytes a parameter.

    Raises:
        ConfigError: the folder cannot hold the file.
    """

    def __init__(self, parameters: Sequence[Tensor], *, folder: str | None) -> None:
        self._offsets: dict[Tensor, int] = {}
        size_bytes = 0
        for parameter in parameters:
            self._offsets[parameter] = size_bytes
            size_bytes += 2 * parameter.nbytes
        self._buffers: dict[torch.dtype, Tensor] = {}
        place = moments_folder(folder)
        try:
            self._file = reserved_file(place, size_bytes)
            weakref.finalize(self, self._file.close)
        except OSError as error:
            raise _refusal(place, size_bytes, error.strerror) from error

    def load(self, parameter: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        moments = self._buffer(parameter, window)
        if not read_file(self._file, self._offset(parameter, window), moments):
            raise OSError("--optimizer-states disk: the file of optimizer states was cut off while training ran")
        first, second = moments.to(parameter.device)
        return first, second

    def store(self, parameter: Tensor, window: slice, moments: tuple[Tensor, Tensor]) -> None:
        buffer = self._buffer(parameter, window)
        for row, moment in zip(buffer, moments, strict=True):
            row.copy_(moment)  # nothing to do on the CPU, where the moment is the row
        write_file(self._file, self._offset(parameter, window), buffer)

    def _buffer(self, parameter: Tensor, window: slice) -> Tensor:
        """Room for both moments of a window, on the CPU, the same each time."""
        if parameter.dtype not in self._buffers:
            self._buffers[parameter.dtype] = torch.empty(2 * WINDOW_ELEMENTS, dtype=parameter.dtype)
        elements = window.stop - window.start
        return self._buffers[parameter.dtype][: 2 * elements].view(2, elements)

    def _offset(self, parameter: Tensor, window: slice) -> int:
        """Windows follow each other, each with its two moments side by side."""
        start: int = window.start
        return self._offsets[parameter] + 2 * start * parameter.element_size()


def moments_folder(named: str | None) -> str:
    """Where moments on disk lie: the folder that was named, or the system's for large temporary files."""
    return named or (str(_DISK_FOLDER) if _DISK_FOLDER.is_dir() else tempfile.gettempdir())


def require_room(folder: str | None, size_bytes: int) -> None:
    """Raise a :class:`ConfigError` if the folder that is named, or taken, has no room for moments of this size."""
    place = moments_folder(folder)
    try:
        free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        raise _refusal(place, size_bytes, error.strerror) from error
    if free_bytes < size_bytes:
        raise _refusal(place, size_bytes, f"{format_bytes(free_bytes)} are free")


def _refusal(place: str, size_bytes: int, reason: str | None) -> ConfigError:
    return ConfigError(
        f"--optimizer-states disk: {format_bytes(size_bytes)} cannot be kept in {place}: {reason}; "
        "name another folder with --optimizer-states-dir"
    )


def windows(elements: int) -> list[slice]:
    """``elements`` cut into windows."""
    starts = range(0, elements, WINDOW_ELEMENTS)
    return [slice(start, min(start + WINDOW_ELEMENTS, elements)) for start in starts]


def round_at_random(numbers: Tensor, generator: torch.Generator) -> Tensor:
    """``numbers`` in bfloat16, each rounded to one of its two neighbours so that the mean is kept: [N] -> [N]."""
    bits = numbers.to(torch.float32, copy=True).view(torch.int32)
    # The draws are from -2^15 on; from 0 on, they carry into the upper half as often as the lower half says.
    bits.add_(random_int16(len(bits), bits.device, generator)).add_(2**15)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16)
