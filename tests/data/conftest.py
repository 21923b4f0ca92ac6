"""The harvest of this interpreter's standard library, which tests share."""

from __future__ import annotations

import pytest

from splade_bench.data.docstrings import DocstringPair, harvest


@pytest.fixture(scope="session")
def pairs() -> list[DocstringPair]:
    return harvest()
