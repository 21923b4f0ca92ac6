"""Records as JSON, for files, terminals and other processes, and back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind")


def finite_or_none(record: Any) -> Any:
    """``record`` as JSON has it: a dataclass becomes a dictionary, a number that is not finite None, at any depth."""
    return json.loads(ascii_json(record), parse_constant=lambda constant: None)


def ascii_json(record: Any) -> str:
    """One line of JSON that another process reads back unchanged, infinite numbers too, whatever its locale."""
    return json.dumps(msgspec.to_builtins(record))


def json_text(record: Any) -> str:
    """Indented JSON for a file or a terminal; a number that is not finite becomes null."""
    return _encodable(json.dumps(finite_or_none(record), indent=2, ensure_ascii=False))


def encode_line(record: Any) -> str:
    """A dataclass as one line of strict JSON, without its newline: a number that is not finite becomes null."""
    return _encodable(json.dumps(finite_or_none(record), ensure_ascii=False))


def _encodable(text: str) -> str:
    """The same JSON, with a lone surrogate, which UTF-8 does not have, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_record(record: Any, kind: type[Kind]) -> Kind:
    """Parsed JSON as a ``kind``, which is a dataclass. Fields that it does not have are ignored.

    Raises:
        ValueError: a field is missing or has another type; the text is one line that names it.
    """
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        complaint, _, path = str(error).replace(" | ", " or ").replace("`", "").partition(" - at $")
        raise ValueError(f"{path.lstrip('.')}: {complaint}" if path else complaint) from error
