"""A fixed mmap threshold in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MIB = 2**20
SCRIPT = """
import torch
from splade_bench.device.heap import fix_mmap_threshold
from splade_bench.measure.rss import current_rss_bytes

assert fix_mmap_threshold(2**20)
before = current_rss_bytes()
keep = []
for round in range(3):
    blocks = [torch.ones(2 * 2**20, dtype=torch.uint8) for _ in range(64)]
    keep.append(torch.ones(4096))    # would hold the heap's top in place
    blocks.clear()
print(current_rss_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_tensors_go_back_to_the_system() -> None:
    finished = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)

    assert int(finished.stdout) < 16 * MIB
