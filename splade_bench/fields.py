"""Fields of settings: their flags, and the values that they may have."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.errors import ConfigError
from splade_bench.units import parse_bytes


def option(field_name: str) -> str:
    """The command-line flag of a field."""
    return "--" + field_name.replace("_", "-")


def require_range(record: object, *names: str, at_least: float, at_most: float = 1.7e308) -> None:
    """Raise a :class:`ConfigError` if a field, or a number of it, is outside the range. None is never outside."""
    for name in names:
        value = getattr(record, name)
        for number in sorted(value) if isinstance(value, Sequence) else [value]:
            if number is not None and not number >= at_least:  # written so that NaN fails
                raise ConfigError(f"{option(name)} {number}: must be at least {at_least}")
            if number is not None and number > at_most:
                raise ConfigError(f"{option(name)} {number}: must be at most {at_most}")


def size_bytes(field_name: str, text: str, *names: str) -> int:
    """The bytes of a field that is written as a size, such as 2GiB, where it is not one of ``names``.

    Raises:
        ConfigError: it is neither, or is 0.
    """
    others = f", or as {' or '.join(names)}" if names else ""
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ConfigError(f"{option(field_name)} {error}{others}") from error
    if not size:
        raise ConfigError(f"{option(field_name)} {text}: must be above 0{others}")
    return size
