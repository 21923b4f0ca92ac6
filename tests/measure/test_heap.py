from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from splade_bench.measure.heap import peak_heap_bytes

loaded = torch.ones(32 * 2**20, dtype=torch.uint8)  # there before the tracker: not counted
def work():
    for _ in range(3):
        torch.ones(64 * 2**20, dtype=torch.uint8)   # freed each time: counted once
print(peak_heap_bytes(work))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memray does not run on Windows")
def test_a_known_tensor_is_read_back() -> None:
    finished = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)

    assert int(finished.stdout) == pytest.approx(64 * 2**20, rel=0.01)
