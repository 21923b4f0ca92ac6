"""A training file in every spelling, for the tests of what reads it and of its index."""

from __future__ import annotations

import json
import os
from pathlib import Path

RECORDS = [
    {
        "query": f"query \u00e9 {number}",
        "positive_document": f'right, [{{"{number}"}}] \\ \U0001f6b2',
        "negative_documents": ["wrong", {"document": f"wrong {number}"}, "w" * number][: 1 + number % 3],
    }
    for number in range(40)
]
SPELLINGS = {
    "lines": "\n".join(map(json.dumps, RECORDS)),
    "lines in UTF-8": "".join(json.dumps(record, ensure_ascii=False) + "\r\n\n" for record in RECORDS),
    "list": json.dumps(RECORDS),
    "list over many lines": "\ufeff \n" + json.dumps(RECORDS, indent=4, ensure_ascii=False) + "\n\n",
}


def settled(path: Path, content: str | bytes) -> Path:
    """A file that was written some time ago, so that its index is kept."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path
