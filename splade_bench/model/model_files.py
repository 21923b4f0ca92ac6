"""Files of a model beside those that transformers reads."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file

from splade_bench.model.packaged import located


def file_of_model(model_name: str, name: str) -> Path | None:
    """A file of a local folder, a packaged model or a model of the Hub; None if it has none of this name."""
    folder = Path(located(model_name))
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    found = cached_file(
        model_name,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None
