from __future__ import annotations

import pytest

from splade_bench.errors import ConfigError
from splade_bench.units import format_bytes, format_seconds, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4096", 4096), ("512MiB", 512 * 2**20), ("1.5 GiB", 3 * 2**29), (" 2KiB ", 2048), ("0B", 0)],
)
def test_sizes_are_read_in_binary_units(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["8GB", "1.5.2MiB", "", "-1MiB", "MiB", "1e3"])
def test_what_is_no_binary_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


def test_sizes_are_written_in_the_unit_that_reads_best() -> None:
    assert format_bytes(1536 * 2**20) == "1536 MiB"
    assert format_bytes(24 * 2**30) == "24.0 GiB"


def test_durations_above_a_minute_show_minutes() -> None:
    assert format_seconds(8.44) == "8.4 s"
    assert format_seconds(185) == "3 min 05 s"
