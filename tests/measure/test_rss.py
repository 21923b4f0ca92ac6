"""The kernel's high-water mark, calibrated in fresh processes: a known allocation must be read back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIB = 2**20
SCRIPT = """
import json, sys
from splade_bench.measure.rss import PeakRss

size = int(sys.argv[1])
before = bytearray(3 * size)        # an earlier, larger peak must be forgotten
del before
peak = PeakRss()
peak.start()
block = bytearray(size)             # zeroed pages are touched on the next line
block[::4096] = b"x" * len(block[::4096])
del block                           # freed before it is read: it still counts
memory = peak.read()
print(json.dumps({"added_bytes": memory.peak_bytes - memory.start_bytes, "source": memory.source}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the high-water mark")
@pytest.mark.parametrize("size", [64 * MIB, 256 * MIB])
def test_a_known_allocation_is_read_back_within_one_percent(size: int) -> None:
    finished = subprocess.run([sys.executable, "-c", SCRIPT, str(size)], check=True, capture_output=True, text=True)

    measured = json.loads(finished.stdout)

    assert measured["source"] == "VmHWM"
    assert measured["added_bytes"] == pytest.approx(size, rel=0.01)


def test_the_parents_memory_is_not_in_the_childs_figure() -> None:
    ballast = bytearray(300 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    script = "from splade_bench.measure.rss import PeakRss; p = PeakRss(); p.start(); print(p.read().peak_bytes)"

    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert int(finished.stdout) < 100 * MIB
    assert len(ballast) == 300 * MIB


@pytest.mark.skipif(sys.platform != "darwin", reason="macOS has a mark of its own")
def test_on_macos_the_lifetime_footprint_rises_with_a_known_allocation() -> None:
    # An earlier peak cannot be forgotten there.
    lines = [line for line in SCRIPT.splitlines() if "before" not in line]
    command = [sys.executable, "-c", "\n".join(lines), str(256 * MIB)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)

    measured = json.loads(finished.stdout)

    assert measured["source"].startswith("ri_lifetime_max_phys_footprint")
    assert measured["added_bytes"] == pytest.approx(256 * MIB, rel=0.05)
