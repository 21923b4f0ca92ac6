"""``--shard 2/8``: one of several machines runs its share of the collected tests.

Tests stay together in parts: cells that differ in memory mode only; tests with one name in their marker ``part``; and,
without that marker, all tests of a file. So times that are compared come from one machine, and what tests share is
measured once.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from splade_bench.errors import SpladeBenchError
from splade_bench.grid.cell import Cell
from splade_bench.grid.shards import Shard, compared_with, expected_s

MARKER = "part"
_MINUTE_S = 60.0
_HELP = (
    "part(name=None, minutes=1): tests of a file with one name run in the same shard, and a test without a name by "
    "itself; minutes is about how long a case takes"
)


class ShardPlugin:
    """Deselects the tests of other shards, after all that other options deselect."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._line = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests of this shard."""
        parts = {item: _part_of(item) for item in items}
        weights: dict[str, float] = defaultdict(float)
        for name, weight_s in parts.values():
            weights[name] += weight_s
        try:
            chosen = self._shard.chosen(weights)
        except SpladeBenchError as error:
            raise pytest.UsageError(str(error)) from error
        kept = [item for item in items if parts[item][0] in chosen]
        config.hook.pytest_deselected(items=[item for item in items if parts[item][0] not in chosen])
        self._line = f"shard {self._shard}: {len(kept)} of {len(items)} tests, {len(chosen)} of {len(weights)} parts"
        items[:] = kept

    def pytest_report_collectionfinish(self) -> str:
        """How much this shard has."""
        return self._line


def add_shards(config: pytest.Config) -> Shard | None:
    """Read ``--shard`` and let it choose the tests of this run; None: it runs all of them.

    Raises:
        ConfigError: there is no such shard.
        pytest.UsageError: a baseline is given, which needs all tests.
    """
    config.addinivalue_line("markers", _HELP)
    text = config.getoption("--shard")
    if text is None:
        return None
    shard = Shard.parse(text)
    if config.getoption("--memory-baseline") or config.getini("memory_baseline"):
        raise pytest.UsageError(
            f"--shard {shard}: a baseline needs the results of all shards; leave --memory-baseline out, and run "
            "splade-bench check on the merged files"
        )
    config.pluginmanager.register(ShardPlugin(shard), "splade_bench shard")
    return shard


def _part_of(item: pytest.Item) -> tuple[str, float]:
    """The name of a test's part, and about how many seconds the test takes."""
    file, _, case = item.nodeid.partition("::")
    cell = item.callspec.params.get("cell") if hasattr(item, "callspec") else None
    if isinstance(cell, Cell):
        return f"{file}::{case.partition('[')[0]}::{compared_with(cell)}", expected_s(cell)
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return file, _MINUTE_S
    minutes = marker.kwargs.get("minutes", 1)
    return f"{file}::{marker.args[0] if marker.args else case}", minutes * _MINUTE_S
