"""Bytes and seconds as people write them: the only place that divides by 1024."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_MIB = 1024**2
_GIB = 1024**3


def format_bytes(size_bytes: float) -> str:
    """Text like ``1536 MiB``: whole MiB below 10 GiB, one decimal of GiB above."""
    if abs(size_bytes) >= 10 * _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    return f"{as_mib(size_bytes):.0f} MiB"


def exact_size(size_bytes: int) -> str:
    """A part of a name: ``1536MiB``, or all bytes, as ``1536001B``, where that would round them."""
    text = format_bytes(size_bytes).replace(" ", "")
    return text if parse_bytes(text) == size_bytes else f"{size_bytes}B"


def whole_mib(size_bytes: int) -> int:
    """Bytes, rounded down to a multiple of 1 MiB."""
    return size_bytes - size_bytes % _MIB


def parse_bytes(text: str) -> int:
    """The bytes of ``1.5GiB``, ``512 MiB`` or a plain number of bytes.

    Raises:
        ValueError: the text is not a size. MB and GB are refused, because people use them for MiB and GiB too.
    """
    match = _SIZE.fullmatch(text)
    unit = match and _UNITS.get(match[2].upper())
    if not match or not unit:
        raise ValueError(f"{text!r} is not a size; write it as 8GiB, 512MiB or a number of bytes")
    return round(float(match[1]) * unit)


def as_mib(size_bytes: float) -> float:
    """Mebibytes, for a table or plot with the unit in its heading."""
    return size_bytes / _MIB


def as_gib(size_bytes: float) -> float:
    """Gibibytes, for a table or plot with the unit in its heading."""
    return size_bytes / _GIB


def format_seconds(duration_s: float) -> str:
    """``8.4 s`` below a minute, ``3 min 05 s`` above."""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds:02d} s"
