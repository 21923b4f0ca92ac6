"""The memory gate: results held against a committed baseline, for any project. Imports no torch."""
