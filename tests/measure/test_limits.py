"""A limit counts what the process has already, and ends in an error that can be caught."""

from __future__ import annotations

import json
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
def test_what_fits_below_the_limit_is_allocated_and_what_does_not_fails(room_mib: int) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(room_mib * MIB)], check=True, capture_output=True, text=True
    )

    assert json.loads(finished.stdout) == {"50": "ok", "90": "ok", "110": "MemoryError", "200": "MemoryError"}


def test_a_limit_below_what_the_process_has_is_refused_with_the_floor() -> None:
    with pytest.raises(ConfigError, match=r"--memory-limit 1 MiB: imports and warm-up alone take \d+ MiB here"):
        limit_rss(MIB)
