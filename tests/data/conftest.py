"""What tests of data share: the harvest of this interpreter's standard library, and the files of docs/data.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from training_examples import write_examples

from splade_bench.data.docstrings import DocstringPair, harvest


@pytest.fixture(scope="session")
def pairs() -> list[DocstringPair]:
    return harvest()


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of docs/data.md."""
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def copied(examples: Path, tmp_path: Path) -> Path:
    """A copy of these files that a test may change."""
    return Path(shutil.copytree(examples, tmp_path / "copied"))
