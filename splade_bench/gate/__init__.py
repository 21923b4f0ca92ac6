"""The memory gate: results compared with a committed baseline, for any project. Imports no torch."""
