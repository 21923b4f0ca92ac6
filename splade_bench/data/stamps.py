"""What tells whether a file is still the one that was read; and what is left of files that were not written whole."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

UNFINISHED = ".unfinished-"
"""What the name of a file in the cache begins with while it is written."""

# A killed process leaves such a file. One that runs writes to it more often than this.
_LEFT_BEHIND_S = 24 * 3600.0
# A file that changed so short a time ago may change again without another time stamp: nothing about it is kept.
_SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is the one that was checked."""

    size_bytes: int
    mtime_ns: int
    inode: int
    """Another file under the same name has another one, even if its size and its times were copied."""
    ctime_ns: int
    """When content, permissions or name changed last; on Windows, when the file was made. No program can set it."""

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def has_same_content_as(self, other: FileStamp) -> bool:
        """Whether size and time are the same: a file may get other permissions while it is read."""
        return (self.size_bytes, self.mtime_ns) == (other.size_bytes, other.mtime_ns)

    @property
    def is_settled(self) -> bool:
        """Whether a later change of the file would give it another stamp."""
        return abs(time.time() - self.mtime_ns / 1e9) > _SETTLED_S


def remove_left_behind(folder: Path) -> None:
    """Delete what killed processes left in a folder of the cache."""
    oldest_s = time.time() - _LEFT_BEHIND_S
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest_s:
                path.unlink()
