"""The folder that a training writes to: ``final_model``, ``run.json`` and ``memory-timeline.svg``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from splade_bench.errors import ConfigError
from splade_bench.files import json_text, write_whole_file
from splade_bench.model.encoder import SpladeEncoder


class OutputFolder:
    """Owns ``--output-dir``: nothing else writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "final_model"
        self.record = path / "run.json"
        self.timeline = path / "memory-timeline.svg"

    def prepare(self, *, overwrite: bool) -> None:
        """Make the folder, before a training whose result could not be written.

        Raises:
            ConfigError: it cannot be written to, or has a model that may not be replaced.
        """
        if os.path.lexists(self.model) and not overwrite:
            raise ConfigError(
                f"--output-dir {self.path}: already has a {self.model.name}; name another folder, or add --overwrite"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ConfigError(f"--output-dir {self.path}: cannot be written to: {error.strerror}") from error

    def save_model(self, encoder: SpladeEncoder) -> None:
        """Write the whole model, then put it in the place of an old one, be that a folder, a file or a link."""
        unfinished = self.path / f".{self.model.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        encoder.save_pretrained(unfinished)
        old = self.path / f".{self.model.name}.old-{uuid4().hex}"
        if os.path.lexists(self.model):
            self.model.rename(old)  # not deleted first: a file that cannot be deleted would be in the way
        unfinished.rename(self.model)
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        write_whole_file(self.record, json_text(record) + "\n")
