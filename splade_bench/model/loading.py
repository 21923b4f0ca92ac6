"""Masked-language models, their configs and tokenizers, from a local folder or the Hub; their own code never runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from splade_bench.config import MODEL_PRESETS
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, SpladeBenchError
from splade_bench.model.weights import first_weight_not_finite

# A tokenizer that found no vocabulary has its special tokens only.
_MIN_TOKENS = 16
# Real models have embeddings for up to some hundred tokens more than their tokenizer.
_MIN_TOKENS_PER_EMBEDDING = 0.5
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.codes", "bpe*", "dict*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def load_model(model_name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked-language model with its trained weights, in float32, and its tokenizer.

    Raises:
        ConfigError: there is no such model, it has no trained masked-language-model head, it needs its own code, its
            weights are incomplete or not finite, or its tokenizer is missing or that of another model.
    """
    tokenizer, model = load_tokenizer(model_name), load_masked_lm(model_name)
    _require_matching_tokenizer(model_name, model, tokenizer)
    return model, tokenizer


def load_masked_lm(model_name: str) -> PreTrainedModel:
    """A masked-language model with its trained weights, in float32.

    Raises:
        ConfigError: there is no such model, it has no trained masked-language-model head, it needs its own code, or its
            weights are incomplete or not finite.
    """
    with _loading(model_name):
        model, loading = AutoModelForMaskedLM.from_pretrained(
            model_name,
            dtype=torch.float32,  # not the checkpoint's: half precision would lose updates
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if loading["missing_keys"]:
        raise ConfigError(f"--model-name {model_name}: {_what_is_missing(model, loading)}")
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
    _require_readable_files(model_name)
    folder = Path(model_name)
    # Without them, transformers makes a tokenizer that knows no word.
    if folder.is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ConfigError(
            f"--model-name {model_name}: no tokenizer files in the folder; save the tokenizer that the model was "
            "trained with into it (tokenizer.save_pretrained)"
        )
    with _loading(model_name):
        # Without the explicit no, transformers asks on a terminal whether a Hub model's own code may run.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_name, trust_remote_code=False)
    return tokenizer


@contextmanager
def _loading(model_name: str) -> Iterator[None]:
    """Refuse a local model with its own code; turn what transformers raises into one line that names the model."""
    _require_readable_files(model_name)
    try:
        config_path = Path(model_name) / "config.json"
        # transformers would refuse it too, but less clearly.
        if config_path.is_file() and "auto_map" in json.loads(config_path.read_text(encoding="utf-8")):
            raise ConfigError(f"{config_path}: auto_map names custom code, which never runs here; choose another model")
        yield
    except SpladeBenchError:
        raise
    except Exception as error:  # transformers, tokenizers and huggingface_hub raise errors of many classes
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other shapes than its config.json says"
        if "use_safetensors" in str(error):  # advice about a flag that is not ours
            reason = f"it has no weights in the safetensors format; {_conversion(model_name)}"
        raise ConfigError(f"--model-name {model_name}: cannot be loaded: {reason}") from error


def _require_readable_files(model_name: str) -> None:
    """Refuse a path that leads to no folder, and a folder whose files are not what their names say.

    Raises:
        ConfigError: it says what is there, and what to do.
    """
    folder = Path(model_name)
    if not folder.is_dir():
        inside_a_folder = folder.parent != Path() and folder.parent.is_dir()
        if folder.exists() or inside_a_folder or model_name.startswith((".", "/", "~")) or model_name.count("/") > 1:
            raise ConfigError(f"--model-name {model_name}: there is no such folder; check the path")
        return  # an id of the Hub
    try:
        beginnings = {path.name: _beginning(path) for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise ConfigError(f"--model-name {model_name}: cannot be read: {error.filename}: {error.strerror}") from error
    for name, beginning in beginnings.items():
        if beginning == _LFS_POINTER:
            raise ConfigError(
                f"--model-name {model_name}: {name} is a Git LFS pointer, not the file itself; "
                "run git lfs pull in that folder"
            )
    pickles = sorted(
        path.name for pattern in _PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin"
    )
    if pickles and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"--model-name {model_name}: its weights are a pickle ({pickles[0]}), a format that can run code and is "
            f"never read here; {_conversion(model_name)}"
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER))


def _conversion(model_name: str) -> str:
    load = f"AutoModelForMaskedLM.from_pretrained({model_name!r}, use_safetensors=False)"
    return (
        "if you trust its author, convert it once: "
        f"python -c \"from transformers import AutoModelForMaskedLM; {load}.save_pretrained('FOLDER')\", "
        "and copy the tokenizer's files to FOLDER"
    )


def _what_is_missing(model: PreTrainedModel, loading: Mapping[str, Collection[str]]) -> str:
    """What a model with random weights in it lacks: its head, or a part of its body."""
    missing, unknown = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    names = ", ".join(missing[:3])
    if not any(name.startswith(f"{model.base_model_prefix}.") for name in missing):
        return f"has no masked-language-model head (no weights for {names})"
    text = f"its weights are incomplete: none for {names}"
    if unknown:
        text += f"; the file has {unknown[0]} instead: were they saved from another class, or from a wrapped model?"
    return text


def _require_matching_tokenizer(model_name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that has more tokens than the model has embeddings, or far fewer.

    Raises:
        ConfigError: it names both numbers.
    """
    weight: Any = model.get_input_embeddings().weight
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
