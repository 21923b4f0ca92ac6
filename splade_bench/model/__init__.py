"""SPLADE encoders: the head and the models it can sit on."""

from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.head import splade_max, splade_max_eager

__all__ = ["SpladeEncoder", "splade_max", "splade_max_eager"]
