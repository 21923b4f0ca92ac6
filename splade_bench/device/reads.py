"""The only places where a step reads values of tensors, or a file: everything else in it depends on shapes alone.

A plan runs the same step on fake tensors, which have no values. Each function here says what a plan assumes in their
place. A read anywhere else fails the plan (``tests/device/test_reads.py``).
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
from splade_bench.device.settings import settings_of


def read_numbers(numbers: Tensor, *, planned: Sequence[float]) -> list[float]:
    """The elements of [N] as Python numbers, after waiting for the device; in a plan, ``planned``."""
    return [*planned] if planned_device() else numbers.tolist()


def mask_of(attention_mask: Tensor, *, lengths: Sequence[int]) -> Tensor | None:
    """``attention_mask`` [N, L] as transformers uses it: not at all if it has no 0 (masking_utils.py).

    On a CPU transformers looks into it. In a plan it has no values, and an accelerator would have to be waited for:
    there the texts' lengths decide.
    """
    may_read = settings_of(attention_mask.device).may_read and not planned_device()
    if not may_read and all(length == attention_mask.shape[1] for length in lengths):
        return None
    return attention_mask


# In place of ``mask.all()`` for a mask that has a 0: a number of the host, for which nothing waits.
HAS_PADDING = torch.zeros((), dtype=torch.bool)


def is_padding_mask(tensor: Tensor) -> bool:
    """Whether a tensor on an accelerator has the form of a padding mask [N, L].

    It has a 0 then: :func:`mask_of` leaves no other masks.
    """
    has_the_form = tensor.dim() == 2 and not tensor.is_floating_point()
    return has_the_form and not settings_of(tensor.device).may_read and not planned_device()


def nonzero(matrix: Tensor, *, planned_share: float) -> tuple[Tensor, Tensor, list[int]]:
    """Row and column of each nonzero element of [R, C], by rows: int64 [N] both, and the number in each row.

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
    """Unique values of a sorted tensor, int64 [N]: the values [U], the inverse index [N], and their counts.

    In a plan there are as many as possible: ``at_most``, or N.
    """
    if planned_device():
        most = min(at_most, len(ordered))
        each, more = divmod(len(ordered), most or 1)
        counts = [each + (number < more) for number in range(most)]
        return torch.empty(most, dtype=torch.int64, device=ordered.device), torch.empty_like(ordered), counts
    values, inverse, value_counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    return values, inverse, value_counts.tolist()


def reserved_file(folder: str, size_bytes: int) -> io.FileIO:
    """An unnamed file in ``folder`` with all its room reserved; in a plan, an empty one.

    Raises:
        OSError: the folder does not have the room.
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
    """Fill a contiguous tensor of the CPU; False if the file ends before. In a plan, only count the work."""
    if planned := planned_device():
        planned.work.on_file(tensor.nbytes)
        return True
    file.seek(offset)
    return file.readinto(_memory(tensor)) == tensor.nbytes


def write_file(file: io.FileIO, offset: int, tensor: Tensor) -> None:
    """Write a contiguous tensor of the CPU. In a plan, only count the work."""
    if planned := planned_device():
        planned.work.on_file(tensor.nbytes)
        return
    file.seek(offset)
    file.write(_memory(tensor))


def _memory(tensor: Tensor) -> memoryview:
    return tensor.numpy().data.cast("B")
