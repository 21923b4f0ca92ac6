"""Whether a parsed line has the fields of a record, each of the kind that its name says.

A report must not fail on a file that somebody edited, so names and kinds are checked where a file is read. Knows no
record: which fields there are, a dataclass says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

# Fields whose names say that they are numbers.
_NUMERIC_ENDINGS = ("_bytes", "_s", "_loss", "_steps", "_size", "_seen", "_share", "_flops", "seed", "round")
# And fields with something inside.
_OBJECTS = (
    *("machine", "versions", "metrics", "metrics_before", "live_peak_by_category", "live_peak_by_phase"),
    "pass_errors",
)
_NEVER_NULL = ("machine", "versions", "peak_bytes")
_LISTS = ("losses", "memory_timeline", "memray_top_sites")


def known_fields(kind: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the dataclass ``kind`` in ``record``; those of a later version are left out.

    Raises:
        ValueError: one is missing or not what it should be.
    """
    known = {known_field.name: known_field for known_field in fields(kind)}
    missing = [
        name
        for name, known_field in known.items()
        if known_field.default is MISSING and known_field.default_factory is MISSING and name not in record
    ]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for name, value in record.items():
        wanted = _complaint(name, value)
        if wanted:
            raise ValueError(f"has {name} {value!r}, which is no {wanted}")
    return {name: value for name, value in record.items() if name in known}


def _complaint(name: str, value: Any) -> str | None:
    """What a value should be by its field's name and is not; None: nothing is wrong with it."""
    if name.endswith("times_s"):
        return None if isinstance(value, list) and value and all(map(_is_number, value)) else "list of numbers"
    if name in _OBJECTS:
        return None if isinstance(value, dict) or (value is None and name not in _NEVER_NULL) else "object"
    if name in _LISTS:
        return None if value is None or isinstance(value, list) else "list"
    if name.endswith(_NUMERIC_ENDINGS):
        return None if _is_number(value) or (value is None and name not in _NEVER_NULL) else "number"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
