"""Recognizes files that are not JSON records, to say what they are and what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splade_bench.errors import DataError, one_line

RECORD_FORM = '{"query": "...", "positive_document": "...", "negative_documents": ["..."]}'

_BEGINNINGS = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it with gunzip"),
    (b"BZh", "is compressed with bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it with unzstd"),
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (b"PAR1", "is a Parquet file; write its rows as JSON Lines"),
    (b"ARROW1", "is an Arrow file; write its rows as JSON Lines"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the data; fetch the data with git lfs pull"),
    (b"\xff\xfe", "is UTF-16; save the file as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save the file as UTF-8"),
)
_MOST_KEYS = 8
_LONGEST_KEY = 40


def require_json(path: Path, head: bytes) -> None:
    """Refuse a file of another format, by its first bytes.

    Raises:
        DataError: it is one; the message says which.
    """
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            raise DataError(f"{path}: {what}")
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").strip().partition(b"\n")
    first, second = first.strip(), rest.lstrip()[:1]
    if b"\0" in first[:4]:
        raise DataError(f"{path}: has NUL bytes, as UTF-16 and binary files have; save the file as text in UTF-8")
    if first.startswith(b"[") and second == b"[" and _is_json(first):
        raise DataError(f"{path}:1: is a list, as are other lines; write each line as {RECORD_FORM}")
    # Where the next line begins a record of its own, the first one is only a bad record.
    if first.startswith(b"{") and first[-1:] in b"{[,:" and second not in (b"{", b""):
        raise DataError(
            f"{path}:1: an object is spread over several lines; write each record on one line, or all in one list [...]"
        )


def complaint_about(record: Any, error: ValueError) -> str:
    """Why parsed JSON cannot be used as a record, and what to write instead."""
    if not isinstance(record, dict):
        return f"{error}; write each record as {RECORD_FORM}"
    if "Object missing required field" in str(error) and not str(error).startswith("negative_documents"):
        keys = [one_line(key)[:_LONGEST_KEY] for key in record]
        shown = ", ".join(keys[:_MOST_KEYS]) + (", ..." if len(keys) > _MOST_KEYS else "")
        return f"{error}; its keys are: {shown or 'none'}; write it as {RECORD_FORM}"
    if "Expected str" in str(error) and "got int" in str(error):
        return f"{error}; write the text itself, not an id"
    return str(error)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
