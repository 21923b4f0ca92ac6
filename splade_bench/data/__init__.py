"""Texts in, batches out. Only :mod:`splade_bench.data.batching` needs torch."""
