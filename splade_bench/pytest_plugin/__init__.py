"""The pytest plugin for any project, under the name that ``-p`` and the entry point use.

:mod:`splade_bench.pytest_plugin.sweep` is this project's own second plugin; its root conftest loads it.
"""

# pytest finds hooks and fixtures by their names in this module.
# ruff: noqa: F401
from splade_bench.pytest_plugin.hooks import (
    measure_cell,
    measure_memory,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from splade_bench.pytest_plugin.options import pytest_addoption
