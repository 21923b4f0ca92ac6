"""A limit includes the memory that the process already has, and ends in an error that can be caught."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from splade_bench.errors import ConfigError
from splade_bench.measure.limits import limit_rss

MIB = 2**20
SCRIPT = """
import json, sys
from splade_bench.measure.limits import limit_rss
from splade_bench.measure.rss import current_rss_bytes

room = int(sys.argv[1])
limit_rss(current_rss_bytes() + room)
outcome = {}
for share in (50, 90, 110, 200):
    try:
        block = bytearray(room * share // 100)
        outcome[share] = "ok"
        del block
    except MemoryError:
        outcome[share] = "MemoryError"
print(json.dumps(outcome))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
@pytest.mark.parametrize("room_mib", [64, 512])
def test_only_allocations_above_the_limit_fail(room_mib: int) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(room_mib * MIB)], check=True, capture_output=True, text=True
    )

    assert json.loads(finished.stdout) == {"50": "ok", "90": "ok", "110": "MemoryError", "200": "MemoryError"}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_an_existing_limit_is_not_raised() -> None:
    command = ["bash", "-c", 'ulimit -d 2000000 && exec "$@"', "bash", sys.executable, "-c", SCRIPT]
    roomier = subprocess.run([*command, str(4096 * MIB)], check=True, capture_output=True, text=True)
    tighter = subprocess.run([*command, str(64 * MIB)], check=True, capture_output=True, text=True)

    assert json.loads(roomier.stdout) == dict.fromkeys(("50", "90", "110", "200"), "MemoryError")
    assert json.loads(tighter.stdout) == {"50": "ok", "90": "ok", "110": "MemoryError", "200": "MemoryError"}


TRIMMED = """
import json, sys
import torch
from splade_bench.device.heap import call_after_trim, trim_heap
from splade_bench.measure.limits import limit_rss, renew_limit
from splade_bench.measure.rss import current_rss_bytes

MIB = 2**20
blocks = [torch.ones(2**16, dtype=torch.uint8) for _ in range(2048)]  # 128 MiB of heap
limit_bytes = current_rss_bytes() + 32 * MIB
limit_rss(limit_bytes)
call_after_trim(lambda: renew_limit(limit_bytes))
del blocks[::2]  # 64 of them in holes
trim_heap()
outcome = {}
for size_mib in (80, 128):  # of the 96 that are there now
    try:
        block = bytearray(size_mib * MIB)
        outcome[size_mib] = "ok"
        del block
    except MemoryError:
        outcome[size_mib] = "MemoryError"
print(json.dumps(outcome))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="trimming is glibc's")
def test_trimmed_memory_can_be_allocated_again() -> None:
    finished = subprocess.run([sys.executable, "-c", TRIMMED], check=True, capture_output=True, text=True)

    assert json.loads(finished.stdout) == {"80": "ok", "128": "MemoryError"}


def test_a_limit_below_the_memory_of_the_process_is_refused_with_the_floor() -> None:
    with pytest.raises(
        ConfigError, match=r"--memory-limit 1 MiB: Python, its imports and the warm-up already take \d+ MiB;"
    ):
        limit_rss(MIB)
