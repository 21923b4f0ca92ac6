"""Where a step looks into its tensors: everything in it that depends on their values, not on their shapes alone.

A plan runs the same step on fake tensors, which have shapes and no values. So each function here says what a plan takes
in their place, and nothing else in ``model``, ``losses`` and ``training`` reads a tensor on the host
(``tests/test_host.py``): a step that cannot be planned fails a test.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from splade_bench.device.planned import planned_device


def read_numbers(numbers: Tensor, *, planned: Sequence[float]) -> list[float]:
    """The elements of [N] as Python numbers, after waiting for the device; in a plan, ``planned``."""
    if planned_device():
        return [*planned]
    return numbers.tolist()


def mask_of(attention_mask: Tensor, *, planned_lengths: Sequence[int]) -> Tensor | None:
    """``attention_mask`` [N, L], into which transformers looks: one without a 0 it leaves out (its masking_utils.py).

    On fake tensors it does not look, so in a plan that is decided here, by the texts' lengths.
    """
    if planned_device() and all(length == attention_mask.shape[1] for length in planned_lengths):
        return None
    return attention_mask


def nonzero(matrix: Tensor, *, planned_share: float) -> tuple[Tensor, Tensor, list[int]]:
    """Row and column of each element of [R, C] that is not 0, by rows: int64 [N] both, and how many each row has.

    In a plan, each row has ``planned_share`` of its elements.
    """
    if planned_device():
        rows, columns = matrix.shape
        counts = [round(planned_share * columns)] * rows
        row, column = torch.empty(2, sum(counts), dtype=torch.int64, device=matrix.device)
        return row, column, counts
    row, column = matrix.nonzero(as_tuple=True)
    return row, column, torch.bincount(row, minlength=len(matrix)).tolist()


def unique_counts(ordered: Tensor, *, at_most: int) -> tuple[Tensor, Tensor, list[int]]:
    """The U different numbers in ``ordered`` [N], int64 [U]; which of them each is, [N]; and how often each comes.

    In a plan there are as many as there may be: ``at_most``, or N.
    """
    if planned_device():
        most = min(at_most, len(ordered))
        each, more = divmod(len(ordered), most or 1)
        counts = [each + (number < more) for number in range(most)]
        return torch.empty(most, dtype=torch.int64, device=ordered.device), torch.empty_like(ordered), counts
    numbers, which, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    return numbers, which, counts.tolist()


def reserved_file(folder: str, size_bytes: int) -> io.FileIO:
    """A file without a name in ``folder``, made as large as it will be; in a plan, one that holds nothing.

    Raises:
        OSError: the folder cannot hold it.
    """
    if planned_device():
        return io.FileIO(os.devnull, "r+")
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    try:
        if hasattr(os, "posix_fallocate") and size_bytes:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        elif shutil.disk_usage(folder).free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            os.truncate(file.fileno(), size_bytes)
    except OSError:
        file.close()
        raise
    return file


def read_file(file: io.FileIO, offset: int, tensor: Tensor) -> bool:
    """Fill a contiguous tensor of the CPU from ``file``; False where the file ends before. In a plan, nothing."""
    if planned := planned_device():
        planned.work.on_file(tensor.nbytes)
        return True
    file.seek(offset)
    return file.readinto(_memory(tensor)) == tensor.nbytes


def write_file(file: io.FileIO, offset: int, tensor: Tensor) -> None:
    """Write a contiguous tensor of the CPU to ``file``. In a plan, nothing."""
    if planned := planned_device():
        planned.work.on_file(tensor.nbytes)
        return
    file.seek(offset)
    file.write(_memory(tensor))


def _memory(tensor: Tensor) -> memoryview:
    return tensor.numpy().data.cast("B")
