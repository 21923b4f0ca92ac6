"""Recognizes how a file of JSON records is laid out; refuses other files by saying what they are and what to change."""

from __future__ import annotations

import json
import re
from pathlib import Path

from splade_bench.data.columns import is_column
from splade_bench.errors import DataError, one_line

# A pickle can run code when it is read.
PICKLE_ADVICE = (
    "is a pickle, which can run code and is never read; if you trust it, write it as JSON Lines: "
    "python -c \"import gzip, json, pickle; out = open('scores.jsonl', 'w'); [print(json.dumps({'qid': q, "
    "'scores': s}, default=float), file=out) for q, s in pickle.load(gzip.open('FILE')).items()]\""
)
_BEGINNINGS = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it with unzstd"),
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    *((b"\x80" + bytes([protocol]), PICKLE_ADVICE) for protocol in range(2, 6)),
    # Where training data may be such a file, it is found out before.
    (b"PAR1", "is a Parquet file, which is not read here; write it as JSON Lines"),
    (b"ARROW1", "is an Arrow file, which is not read here; write it as JSON Lines"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the data; fetch the data with git lfs pull"),
    (b"\xff\xfe\0\0", "is UTF-32; save the file as UTF-8"),
    (b"\xff\xfe", "is UTF-16; save the file as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save the file as UTF-8"),
)
# An object is empty or begins with a key; of a list, each item is a record or a text of one.
_JSON_BEGINNING = re.compile(rb'\s*(\{\s*(["}]|\Z)|\[\s*(["\[{\]]|\Z))')
_SHOWN_BYTES = 40
# A record with such a key is itself one of the records.
_KEYS_OF_TEXTS = frozenset(("_id", "id", "qid", "doc_id", "text", "title"))


def looks_like_json(head: bytes) -> bool:
    """Whether a file begins as JSON records do, by its first bytes. A text may begin with a brace or a bracket too."""
    return bool(_JSON_BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")))


def is_spread_over_lines(line: str) -> bool:
    """Whether a line that is not JSON can be the first one of an object or a list over several lines."""
    return line.strip()[-1:] in tuple("{[,:")


def require_known_beginning(path: Path, head: bytes) -> None:
    """Refuse a file of training data that is no table and whose first two lines do not begin as JSON does.

    Raises:
        DataError: it is such a file; the message says how it begins, and what would be read.
    """
    first, second = _first_lines(head.removeprefix(b"\xef\xbb\xbf"))
    if first and first[:1] not in b"{[" and second not in (b"{", b"["):
        begins = one_line(first[:_SHOWN_BYTES].decode(errors="replace"))
        raise DataError(
            f"{path}:1: begins with {begins!r}, which is neither JSON nor a table whose columns are known; would be "
            "read: JSON, JSON Lines, CSV, TSV, Parquet and Arrow files; if it is a table, add --train-format csv or tsv"
        )


def require_text(path: Path, head: bytes) -> None:
    """Refuse a file that is not text in UTF-8, by its first bytes.

    Raises:
        DataError: it is not; the message says what it is.
    """
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            raise DataError(f"{path}: {what}")
    if b"\0" in head.lstrip()[:4]:
        raise DataError(f"{path}: has NUL bytes, as UTF-16 and binary files have; save the file as text in UTF-8")


def require_json(path: Path, head: bytes) -> None:
    """Refuse a file that is not laid out as JSON records are, by its first bytes.

    Raises:
        DataError: it is not; the message says what it is.
    """
    require_text(path, head)
    first, second = _first_lines(head.removeprefix(b"\xef\xbb\xbf"))
    # Where the next line begins a record of its own, the first one is only a bad record.
    if first.startswith(b"{") and first[-1:] in b"{[,:" and second not in (b"{", b""):
        raise DataError(
            f"{path}:1: an object is spread over several lines; write each record on one line, or all in one list [...]"
        )


def is_line_of_lists(head: bytes) -> bool:
    """Whether each line is a list, by the first bytes of a file."""
    first, second = _first_lines(head)
    if not first.startswith(b"[") or second not in (b"[", b""):
        return False
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    # Of a single line, a list of texts is one record, and a list of objects or lists is all records.
    return bool(second) or (len(record) > 1 and all(isinstance(text, str) for text in record))


def wrapped_list_at(head: bytes) -> int | None:
    """Where the bracket of the records' list is, if an object wraps it, by the first bytes of a file.

    The list's key and those before it are not the names of columns, and its items are objects or lists.
    """
    first, second = _first_lines(head)
    is_lines = second and (first.endswith(b"}") or (second == b"{" and not first.endswith(b"[")))
    if is_lines or not first.startswith(b"{"):
        return None
    text = head.decode("latin-1")  # a character for each byte; JSON's own marks are ASCII
    decoder = json.JSONDecoder(strict=False)
    at = _skip_space(text, 0) + 1
    try:
        while True:
            key, at = decoder.raw_decode(text, _skip_space(text, at))
            at = _skip_space(text, at)
            if not isinstance(key, str) or is_column(key) or key in _KEYS_OF_TEXTS or text[at] != ":":
                return None
            at = _skip_space(text, at + 1)
            if text[at] == "[" and text[_skip_space(text, at + 1)] in "{[":
                return at
            _, at = decoder.raw_decode(text, at)
            at = _skip_space(text, at)
            if text[at] != ",":
                return None
            at += 1
    except (ValueError, IndexError, RecursionError):
        return None


def _first_lines(head: bytes) -> tuple[bytes, bytes]:
    """The first line of a file that is not blank, and the first byte of what follows it."""
    first, _, rest = head.strip().partition(b"\n")
    return first.strip(), rest.lstrip()[:1]


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
