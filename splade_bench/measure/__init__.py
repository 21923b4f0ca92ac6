"""Processes and bytes: knows nothing of SPLADE, and imports no torch."""
