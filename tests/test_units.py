"""Bytes and seconds as people write them."""

from __future__ import annotations

import pytest

from splade_bench.units import exact_size, format_bytes, format_seconds, parse_bytes, whole_mib


def test_sizes_are_written_in_the_unit_that_reads_best() -> None:
    assert format_bytes(1536 * 2**20) == "1536 MiB"
    assert format_bytes(24 * 2**30) == "24.0 GiB"


def test_a_size_in_a_name_is_exact() -> None:
    assert exact_size(4206 * 2**20) == "4206MiB"
    assert exact_size(4206 * 2**20 + 1) == f"{4206 * 2**20 + 1}B"


def test_a_size_is_rounded_down_to_whole_mebibytes() -> None:
    assert whole_mib(5 * 2**20 - 1) == 4 * 2**20
    assert whole_mib(5 * 2**20) == 5 * 2**20


def test_durations_above_a_minute_show_minutes() -> None:
    assert format_seconds(8.44) == "8.4 s"
    assert format_seconds(185) == "3 min 05 s"


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GiB", 8 * 2**30), ("1.5 gib", 3 * 2**29), ("512MiB", 2**29), ("4096", 4096), ("64 KiB", 2**16), ("7B", 7)],
)
def test_sizes_are_read_in_binary_units(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["8GB", "8 G", "-1GiB", "", "many", "1,5GiB"])
def test_a_size_that_may_mean_two_things_or_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 8GiB"):
        parse_bytes(text)
