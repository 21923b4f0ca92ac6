"""Masked-language models, their configs and tokenizers, from a local folder or the Hub; their own code never runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from splade_bench.errors import ConfigError

# What transformers raises for a folder without a complete model.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


def load_model(model_name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked-language model with its trained weights, in float32, and its tokenizer.

    Raises:
        ConfigError: there is no such model, it has no trained masked-language-model head, it needs its own code, or
            its tokenizer is that of another model.
    """
    tokenizer = load_tokenizer(model_name)
    with _loading(model_name):
        model, loading = AutoModelForMaskedLM.from_pretrained(
            model_name,
            dtype=torch.float32,  # not the checkpoint's: half precision would lose updates
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ConfigError(f"--model-name {model_name}: has no masked-language-model head (no weights for {missing})")
    embeddings = len(model.get_input_embeddings().weight)
    if len(tokenizer) > embeddings:
        raise ConfigError(
            f"--model-name {model_name}: its tokenizer has {len(tokenizer)} tokens, but the model has embeddings for "
            f"{embeddings}; call resize_token_embeddings and save both together"
        )
    return model, tokenizer


def untrained_model(config: PretrainedConfig) -> PreTrainedModel:
    """A masked-language model with uninitialised weights: for a plan, which does not read them.

    Raises:
        ConfigError: the architecture is unknown or has no masked-language-model head.
    """
    with _loading(str(config.name_or_path)), no_init_weights():
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    model.tie_weights()
    return model


def load_config(model_name: str) -> PretrainedConfig:
    """The config of a model.

    Raises:
        ConfigError: there is no such model, or it needs its own code.
    """
    with _loading(model_name):
        config: PretrainedConfig = AutoConfig.from_pretrained(model_name, trust_remote_code=False)
    return config


def load_tokenizer(model_name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ConfigError: there is no such tokenizer, or it needs its own code.
    """
    with _loading(model_name):
        # Without the explicit no, transformers asks on a terminal whether a Hub model's own code may run.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_name, trust_remote_code=False)
    return tokenizer


@contextmanager
def _loading(model_name: str) -> Iterator[None]:
    """Refuse a local model with its own code; turn what transformers raises into one line that names the model."""
    try:
        config_path = Path(model_name) / "config.json"
        # transformers would refuse it too, but less clearly.
        if config_path.is_file() and "auto_map" in json.loads(config_path.read_text(encoding="utf-8")):
            raise ConfigError(f"{config_path}: auto_map names custom code, which never runs here; choose another model")
        yield
    except _LOADING_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--model-name {model_name}: cannot be loaded: {reason}") from error
