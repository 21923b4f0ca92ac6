"""A file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole_file(path: Path, text: str) -> None:
    """Put a file in its place whole, or leave what is there.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
