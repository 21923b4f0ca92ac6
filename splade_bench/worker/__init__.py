"""Inside a measured process: what it builds, runs and reads. :mod:`splade_bench.bench` is the outside."""
