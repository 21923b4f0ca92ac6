"""A project that has a --device of its own, as many have."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="here", help="where this project runs")
    parser.addoption("--resume", action="store_true", help="what this project means by it")
