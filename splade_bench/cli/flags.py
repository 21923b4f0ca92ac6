"""The way back from settings to the command line that means them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from splade_bench.config import option


def flags_of(wanted: Any, default: Any) -> Iterator[str]:
    """Flags with which a parser that starts from the dataclass ``default`` arrives at ``wanted``."""
    for one in fields(wanted):
        value, known = getattr(wanted, one.name), getattr(default, one.name)
        if is_dataclass(value):
            yield from flags_of(value, known)
        elif value != known:
            yield from _flag(one.name, value)


def _flag(name: str, value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield option(name) if value else option(f"no_{name}")
    else:
        yield from (option(name), str(value))
