"""Bytes and seconds as people write them: the only place that divides by 1024."""

from __future__ import annotations

import re

from splade_bench.errors import ConfigError

_BINARY_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]iB|B)?\s*")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``512MiB``, ``1.5GiB`` or ``4096``.

    Raises:
        ConfigError: not a size, or a decimal unit such as ``MB``, which people read both ways.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        units = ", ".join(_BINARY_UNITS)
        raise ConfigError(f"{text!r} is not a size: write a number and one of {units}")
    number, unit = match.groups()
    return int(float(number) * _BINARY_UNITS[unit or "B"])


def format_bytes(size_bytes: float) -> str:
    """``1536 MiB`` style text: whole MiB below 10 GiB, one decimal of GiB above."""
    if abs(size_bytes) >= 10 * _BINARY_UNITS["GiB"]:
        return f"{size_bytes / _BINARY_UNITS['GiB']:.1f} GiB"
    return f"{as_mib(size_bytes):.0f} MiB"


def as_mib(size_bytes: float) -> float:
    """Mebibytes, for a table or plot whose heading names the unit."""
    return size_bytes / _BINARY_UNITS["MiB"]


def format_seconds(duration_s: float) -> str:
    """``8.4 s`` below a minute, ``3 min 05 s`` above."""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds:02d} s"
