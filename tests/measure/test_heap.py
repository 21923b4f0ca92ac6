"""memray's peak of a known tensor, with the line that allocated it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """\
import json
from dataclasses import asdict

import torch
from splade_bench.measure.heap import measure_heap

loaded = torch.ones(32 * 2**20, dtype=torch.uint8)  # there before the tracker: not counted
def work():
    for _ in range(3):
        torch.ones(64 * 2**20, dtype=torch.uint8)   # freed each time: counted once
heap = measure_heap(work)
figures = {"allocations": heap.allocations, "allocated_bytes": heap.allocated_bytes}
print(json.dumps({"peak_bytes": heap.peak_bytes, "top": asdict(heap.top_sites[0]), **figures}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memray does not run on Windows")
def test_a_known_tensor_is_read_back_with_the_line_that_made_it(tmp_path: Path) -> None:
    script = tmp_path / "project" / "work.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    finished = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)

    heap = json.loads(finished.stdout)

    assert heap["peak_bytes"] == pytest.approx(64 * 2**20, rel=0.001)
    assert heap["allocated_bytes"] == pytest.approx(3 * 64 * 2**20, rel=0.001)
    assert 3 <= heap["allocations"] < 100
    assert heap["top"]["size_bytes"] == pytest.approx(64 * 2**20, rel=0.001)
    assert heap["top"]["site"] == "project/work.py:10 work"  # no folder above the script's own
