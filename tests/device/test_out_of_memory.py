"""Out-of-memory errors of every allocator, and the size that was asked for."""

from __future__ import annotations

import errno

import pytest
import torch

from splade_bench.device.out_of_memory import failed_allocation_bytes, is_out_of_memory


def test_the_allocators_own_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)

    assert is_out_of_memory(caught.value)
    assert failed_allocation_bytes(caught.value) == 2**60


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 26.77 GB)"), True),
        (RuntimeError("Invalid buffer size: 28.00 GB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_other_errors_are_told_apart(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("message", "size_bytes"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB", 5 * 2**29),
        ("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 256.00 MB on private pool.", 2**28),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 65536 bytes.", 2**16),
        ("Invalid buffer size: 28.00 GB", 28 * 2**30),
        ("bad allocation", None),
    ],
)
def test_what_was_asked_for_is_read_from_the_allocators_message(message: str, size_bytes: int | None) -> None:
    assert failed_allocation_bytes(RuntimeError(message)) == size_bytes
