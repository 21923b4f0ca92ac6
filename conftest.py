"""Every pytest run of this project: offline, and with the sweep's options."""

from __future__ import annotations

import os

# Before anything imports transformers: nothing here may reach a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# By the name of its entry point, so that pytest takes them for one where the package is installed.
pytest_plugins = ["splade_bench.pytest_plugin", "splade_bench.pytest_plugin.sweep"]
