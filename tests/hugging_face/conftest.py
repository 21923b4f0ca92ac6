"""A small SparseEncoder of sentence-transformers, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splade_bench.model import SpladeEncoder
from splade_bench.model.sparse_encoder_files import write_sparse_encoder_files

MakeModel = Callable[..., Any]


@pytest.fixture
def model_folder(encoder: SpladeEncoder, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    encoder.save_pretrained(folder)
    write_sparse_encoder_files(folder, encoder)
    return folder


@pytest.fixture
def make_model(model_folder: Path) -> MakeModel:
    """Makes a SparseEncoder on the CPU, always with the same weights, for training; without dropout by default."""
    from sentence_transformers import SparseEncoder

    def make(*, dropout: float = 0.0) -> Any:
        chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return SparseEncoder(str(model_folder), device="cpu", config_kwargs=chances).train()

    return make
