"""Cells in, recorded results out: each cell in a fresh process."""
