"""What an instrument reads, or nothing: an instrument that fails must not end the work that it watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Reading = TypeVar("Reading")


def or_none(read: Callable[[], Reading]) -> Reading | None:
    """What ``read`` returns; None if it raises, which sandboxes and systems without /proc make most of them do."""
    try:
        return read()
    except Exception:
        return None
