from __future__ import annotations

from splade_bench.units import format_bytes, format_seconds


def test_sizes_are_written_in_the_unit_that_reads_best() -> None:
    assert format_bytes(1536 * 2**20) == "1536 MiB"
    assert format_bytes(24 * 2**30) == "24.0 GiB"


def test_durations_above_a_minute_show_minutes() -> None:
    assert format_seconds(8.44) == "8.4 s"
    assert format_seconds(185) == "3 min 05 s"
