"""Recorded results in, tables and pictures out; needs no torch."""
