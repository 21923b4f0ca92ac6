"""Trained encoder in, retrieval figures out."""
