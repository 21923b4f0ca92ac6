"""For every pytest run of this project: no network, and the options of the sweep."""

from __future__ import annotations

import os

# Before anything imports transformers, which would use the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The first has the name of its entry point: if the package is installed, pytest still loads it once.
pytest_plugins = ["splade_bench.pytest_plugin", "splade_bench.pytest_plugin.sweep"]
