"""Paths that name no file of their own: devices, pipes and descriptors. They are written to and never replaced."""

from __future__ import annotations

import errno
from pathlib import Path


def is_special(path: Path) -> bool:
    """Whether a path names a device, a pipe or an open descriptor: a file in its place would break other programs.

    Raises:
        OSError: it is a descriptor's name of a file, whose other writers would write over what is written here.
    """
    if not path.is_symlink():
        return path.exists() and not path.is_file() and not path.is_dir()
    folder = path.parent.resolve()
    is_descriptor = folder == Path("/dev") or folder.is_relative_to("/proc")
    if is_descriptor and path.is_file():
        raise OSError(errno.EINVAL, "it is another name of an open file")
    return is_descriptor
