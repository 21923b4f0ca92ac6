"""Records of other formats, on their way to JSON Lines: each with its place, as a user finds it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PlacedRecord:
    """A record of a training file, or why there is none."""

    place: str
    """What follows the path that the user named: ":17", ": row 17", "/qrels/train.tsv:17"."""
    record: Any = None
    """Of JSON types, with the columns that it has in its file."""
    fault: str | None = None

    @property
    def line(self) -> bytes:
        """Its line of JSON. A lone surrogate becomes its JSON escape, which is refused where it is read."""
        content = {"place": self.place, "record": self.record} | ({"fault": self.fault} if self.fault else {})
        return json.dumps(content, ensure_ascii=False, default=_as_text).encode(errors="backslashreplace") + b"\n"


def _as_text(value: Any) -> str:
    """What JSON has no type for, such as a date, or bytes of a Parquet file."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
