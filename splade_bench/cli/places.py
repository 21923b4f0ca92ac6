"""Whether a folder can be written where an option names it, found out before a model is loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from splade_bench.errors import ConfigError
from splade_bench.files import not_written


def require_place(option: str, folder: Path) -> None:
    """Make the folders above a new folder, and try to write there.

    Raises:
        ConfigError: that is not possible; the message names the option.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{option} {folder}: {not_written(folder, error)}") from error
