"""The grid of measured training runs: workloads, cells and sweeps, as data."""
