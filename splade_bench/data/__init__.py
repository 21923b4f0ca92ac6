"""Texts in, records out. Imports no torch."""
