"""Architectures in which the texts of a batch change each other's vectors are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import SIZES, wrap
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM

from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder

DEPENDENT: dict[str, dict[str, Any]] = {
    "convbert": SIZES | {"embedding_size": 32},
    "fnet": SIZES,
    "nystromformer": SIZES | {"segment_means_seq_len": 8, "num_landmarks": 8},
    "yoso": SIZES,
}


@pytest.mark.parametrize("architecture", DEPENDENT)
def test_a_model_that_gives_a_text_another_vector_beside_a_longer_one_is_refused(
    architecture: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    size = len(wrap(tokenizer))
    config = transformers.AutoConfig.for_model(architecture, **DEPENDENT[architecture] | {"vocab_size": size})
    config.initializer_range = 0.5
    model = AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    with pytest.raises(ConfigError) as refused:
        SpladeEncoder.from_pretrained(str(tmp_path))

    message = str(refused.value)
    assert f"{type(model).__name__} cannot be used here, because it gives a text another vector" in message
    assert "\n" not in message
