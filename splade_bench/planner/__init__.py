"""Predicts peak memory before anything is allocated: the trainer's step on fake tensors, and models of allocators."""
