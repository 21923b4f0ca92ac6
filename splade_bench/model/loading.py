"""Masked-language models, their configs and tokenizers, from a local folder or the Hub; their own code never runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from splade_bench.config import MODEL_PRESETS
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, SpladeBenchError, error_line
from splade_bench.model.activations import set_saved_activation
from splade_bench.model.hub_errors import hub_reason
from splade_bench.model.model_folder import require_model_folder
from splade_bench.model.packaged import located
from splade_bench.model.pooling_module import named_activation, named_max_length, transformer_folder
from splade_bench.model.weights import first_weight_not_finite

logger = logging.getLogger(__name__)

# A tokenizer that found no vocabulary has its special tokens only.
_MIN_TOKENS = 16
# Real models have embeddings for up to some hundred tokens more than their tokenizer.
_MIN_TOKENS_PER_EMBEDDING = 0.5
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.codes", "bpe*", "dict*")
# Parts of a body that a masked-language model has no use for.
_LEFT_OUT = ("pooler", "position_ids", "inv_freq")
_OWN_CODE = "custom code, which never runs here"


def load_model(model_name: str, *, needs_head: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked-language model with its trained weights, in float32, and its tokenizer.

    Raises:
        ConfigError: there is no such model, it has no trained masked-language-model head, it needs its own code, its
            weights are incomplete or not finite, or its tokenizer is missing or that of another model.
    """
    tokenizer, model = load_tokenizer(model_name), load_masked_lm(model_name, needs_head=needs_head)
    _require_matching_tokenizer(model_name, model, tokenizer)
    return model, tokenizer


def load_masked_lm(model_name: str, *, needs_head: bool = True, **settings: float) -> PreTrainedModel:
    """A masked-language model with its trained weights, in float32. Of a pickle, tensors are read and nothing else.

    Args:
        model_name: a folder, a packaged model or a Hub id.
        needs_head: without it, a head that has no trained weights gets random ones.
        settings: fields of the config that take the place of the model's own.

    Raises:
        ConfigError: there is no such model, it has no trained masked-language-model head, it needs its own code, or its
            weights are incomplete or not finite.
    """
    folder = located(model_name)
    config, had_own_code = _config(folder)
    for name, value in settings.items():
        setattr(config, name, value)
    # transformers would ask the Hub, in the background, to convert a pickle there.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with _loading(folder, config), _no_load_report():
        model, loading = AutoModelForMaskedLM.from_pretrained(
            transformer_folder(folder),
            config=config,
            dtype=torch.float32,  # not the checkpoint's: half precision would lose updates
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if loading["missing_keys"] and (needs_head or _lacks_body(model, loading["missing_keys"])):
        raise ConfigError(f"--model-name {model_name}: {_what_is_missing(model, loading)}")
    if unknown := _unknown_in_body(model, loading):
        has = f"--model-name {model_name}: has weights, such as {unknown}, that"
        if had_own_code:
            raise ConfigError(
                f"{has} transformers' {type(model).__name__} does not have: they are for {_OWN_CODE}; choose another "
                "model"
            )
        logger.warning("%s its config.json has no place for; they are left out", has)
    if not_finite := first_weight_not_finite(model):
        raise ConfigError(
            f"--model-name {model_name}: its weight {not_finite} is not finite (NaN or infinity): "
            "its training diverged, or the file is damaged; choose another model"
        )
    return model  # type: ignore[no-any-return]


def untrained_model(config: PretrainedConfig) -> PreTrainedModel:
    """A masked-language model with uninitialised weights: for a plan, which does not read them.

    Raises:
        ConfigError: the architecture is unknown or has no masked-language-model head.
    """
    with _loading(str(config.name_or_path), config):
        with no_init_weights():
            model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
        model.tie_weights()
    return model


def load_config(model_name: str) -> PretrainedConfig:
    """The config of a model, of a class that transformers has masked-language models for.

    Raises:
        ConfigError: there is no such model, it needs its own code, or it pools otherwise.
    """
    return _config(located(model_name))[0]


def _config(model_name: str) -> tuple[PretrainedConfig, bool]:
    """The config of a model, and whether it names its own code, which transformers' own class replaces."""
    with _loading(model_name):
        activation = named_activation(model_name)
        config: PretrainedConfig = AutoConfig.from_pretrained(transformer_folder(model_name), trust_remote_code=False)
    if "/" in str(getattr(config, "_attn_implementation", None)):
        raise ConfigError(
            f"--model-name {model_name}: its config.json names the attention {config._attn_implementation}, which is "
            "code on the Hub; take attn_implementation out of it"
        )
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ConfigError(
            f"--model-name {model_name}: cannot be loaded: transformers has no masked-language model of the type "
            f"{config.model_type}; choose another model"
        )
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird's: its first batch of short texts would change it, for good, to the attention that is set here.
        config.attention_type = "original_full"
    if activation:
        set_saved_activation(config, activation)
    had_own_code = hasattr(config, "auto_map")
    if had_own_code:
        del config.auto_map  # what is saved comes without that code
    return config, had_own_code


def load_tokenizer(model_name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ConfigError: there is no such tokenizer, or it needs its own code.
    """
    model_name = located(model_name)
    with _loading(model_name, part="its tokenizer "):
        folder = Path(transformer_folder(model_name))
        # Without them, transformers makes a tokenizer that knows no word.
        if folder.is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
            raise ConfigError(
                f"--model-name {model_name}: no tokenizer files in the folder; save the tokenizer that the model was "
                "trained with into it (tokenizer.save_pretrained)"
            )
        # Without the explicit no, transformers asks on a terminal whether a Hub model's own code may run.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else model_name, trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        # What is padded is not read; but SparseEncoder, which reads what is saved, cannot pad without one.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token
    if max_length := named_max_length(model_name):
        tokenizer.model_max_length = max_length
    return tokenizer


@contextmanager
def _loading(model_name: str, config: PretrainedConfig | None = None, *, part: str = "") -> Iterator[None]:
    """Refuse a local model that needs its own code; turn what transformers raises into one line with its name.

    With a ``config``, its folder has been looked at, and the class of the model is named too. ``part`` is what is
    loaded, if it is not the model.
    """
    try:
        if config is None:
            require_model_folder(model_name)
        config_path = Path(transformer_folder(model_name)) / "config.json"
        if config_path.is_file():
            settings = _json_of(config_path)
            # transformers would refuse it too, but less clearly.
            if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
                raise ConfigError(f"{config_path}: auto_map names {_OWN_CODE}; choose another model")
        yield
    except SpladeBenchError:
        raise
    except Exception as error:  # transformers, tokenizers and huggingface_hub raise errors of many classes
        if is_out_of_memory(error):
            raise
        model_class: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)] if config else None
        name = f"{model_class.__name__} " if config else part
        raise ConfigError(f"--model-name {model_name}: {name}cannot be loaded: {_reason(error)}") from error


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error_line(error)}; save the model again") from error


def _reason(error: Exception) -> str:
    """The first line of an error's text; another one where that is advice about flags that are not ours."""
    text = str(error)
    if reason := hub_reason(error):
        return reason
    if "ignore_mismatched_sizes" in text:
        return "its weights have other shapes than its config.json says"
    if "trust_remote_code" in text:
        return f"it needs {_OWN_CODE}; choose another model"
    if "Weights only load failed" in text:
        return (
            "its weights are a pickle with more than tensors in it, which could run code, or a damaged one; "
            "choose another model, or save its weights as model.safetensors"
        )
    first = (text.strip() or type(error).__name__).splitlines()[0].strip()
    return " ".join(text.split()) if first.endswith(":") else first


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Inside the block, transformers does not list the weights that are missing: an error of ours says it."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _what_is_missing(model: PreTrainedModel, loading: Mapping[str, Collection[str]]) -> str:
    """What a model with random weights in it lacks: its head, or a part of its body."""
    missing, unknown = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    names = ", ".join(missing[:3])
    if not _lacks_body(model, missing):
        return f"has no masked-language-model head (no weights for {names}); train --start lexical makes one"
    text = f"its weights are incomplete: none for {names}"
    if unknown:
        text += f"; the file has {unknown[0]} instead: were they saved from another class, or from a wrapped model?"
    return text


def _unknown_in_body(model: PreTrainedModel, loading: Mapping[str, Collection[str]]) -> str | None:
    """A weight of the file that the model's body does not have, though every layer of it may have been found."""
    body = f"{model.base_model_prefix}."
    unknown = (name for name in sorted(loading["unexpected_keys"]) if name.startswith(body))
    return next((name for name in unknown if not any(part in name for part in _LEFT_OUT)), None)


def _lacks_body(model: PreTrainedModel, missing: Collection[str]) -> bool:
    return any(name.startswith(f"{model.base_model_prefix}.") for name in missing)


def _require_matching_tokenizer(model_name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that has more tokens than the model has embeddings, or far fewer.

    Raises:
        ConfigError: it names both numbers.
    """
    weight: Any = getattr(model.get_input_embeddings(), "weight", None)
    if weight is None:
        return  # an architecture that is refused when it is proved
    tokens, embeddings = len(tokenizer), len(weight)
    if tokens > embeddings:
        change = "call resize_token_embeddings and save both together"
    elif tokens < _MIN_TOKENS_PER_EMBEDDING * embeddings and not _has_own_vocabulary(model, tokenizer):
        change = "save the tokenizer that the model was trained with into the folder"
    else:
        return
    raise ConfigError(
        f"--model-name {model_name}: its tokenizer has {tokens} tokens, but the model has embeddings for {embeddings}; "
        f"{change}"
    )


def _has_own_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model can be a trained preset: its vocabulary is as large as its training texts made it."""
    shapes = {(preset.vocab_size, preset.hidden_size, preset.layers) for preset in MODEL_PRESETS.values()}
    shape = tuple(getattr(model.config, name, 0) for name in ("vocab_size", "hidden_size", "num_hidden_layers"))
    return shape in shapes and len(tokenizer) - len(set(tokenizer.all_special_ids)) >= _MIN_TOKENS
