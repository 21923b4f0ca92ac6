"""The device, a toy encoder on it, and products of float32 in float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from on_device import DEVICE
from tokenizers import Tokenizer

from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(DEVICE)


@pytest.fixture
def encoder(tokenizer: Tokenizer, device: torch.device) -> SpladeEncoder:
    return build_preset("toy", tokenizer, seed=0).to(device)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Products without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
