"""The modules that sentence-transformers names beside a model: how its SparseEncoder makes vectors of the logits.

``modules.json`` lists them: the transformer, in the folder itself or in one of its own, and a ``SpladePooling``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splade_bench.config import MIN_MAX_LENGTH, ActivationName
from splade_bench.errors import ConfigError
from splade_bench.model.activations import ACTIVATION_FUNCTIONS
from splade_bench.model.model_files import file_of_model
from splade_bench.model.static_queries import QUERY_WEIGHTS_NAME

_MODULES = "modules.json"
_LENGTH = "sentence_bert_config.json"
_POOLING = "SpladePooling"
_TRANSFORMERS = ("Transformer", "MLMTransformer")


def transformer_folder(model_name: str) -> str:
    """Where the masked-language model of a local folder is: in it, or where its ``modules.json`` says.

    Raises:
        ConfigError: ``modules.json`` cannot be read, or names another folder than one inside.
    """
    folder = Path(model_name)
    if (folder / "config.json").is_file() or not (folder / _MODULES).is_file():
        return model_name
    for module in _modules(model_name):
        if _kind(module) in _TRANSFORMERS:
            inner = folder / str(module.get("path", ""))
            if not inner.resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f"--model-name {model_name}: {_MODULES}: the path {inner} is outside the folder")
            return str(inner)
    return model_name


def named_activation(model_name: str) -> ActivationName | None:
    """The activation that a model's pooling module has; None if it names no pooling, as most models.

    Raises:
        ConfigError: the pooling is not the maximum over tokens, or there are other modules. It names the file.
    """
    modules = _modules(model_name)
    kinds = [_kind(module) for module in modules]
    if "Router" in kinds and file_of_model(model_name, QUERY_WEIGHTS_NAME):
        return None  # saved here: its config.json names the activation
    if "Router" in kinds:
        raise ConfigError(
            f"--model-name {model_name}: {_MODULES}: its Router has one model for queries and one for documents; "
            f"name the folder of one{_inside(model_name)}"
        )
    if _POOLING not in kinds:
        return None
    if kinds[0] not in _TRANSFORMERS or kinds[1:] != [_POOLING]:
        raise ConfigError(
            f"--model-name {model_name}: {_MODULES}: its modules are {', '.join(kinds)}, but a transformer and a "
            f"{_POOLING} are all that is computed here; choose another model"
        )
    path = f"{modules[1].get('path', '')}/config.json"
    settings = _read(model_name, path) or {}
    strategy, activation = settings.get("pooling_strategy", "max"), settings.get("activation_function", "relu")
    if strategy != "max" or activation not in ACTIVATION_FUNCTIONS:
        raise ConfigError(
            f"--model-name {model_name}: {path}: its pooling_strategy is {strategy} and its activation_function "
            f"{activation}, but only max with {' or '.join(ACTIVATION_FUNCTIONS)} is computed here; choose another "
            "model"
        )
    return ACTIVATION_FUNCTIONS[activation]


def named_max_length(model_name: str) -> int | None:
    """The tokens after which the model's SparseEncoder cuts a text; None if the model names no number.

    Raises:
        ConfigError: the file cannot be read.
    """
    settings = _read(transformer_folder(model_name), _LENGTH)
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return length if isinstance(length, int) and length >= MIN_MAX_LENGTH else None


def _inside(model_name: str) -> str:
    """The folders of a router that have a masked-language model, as an example."""
    found = [path.parent for path in sorted(Path(model_name).glob("*Transformer/config.json"))]
    return f", such as {found[0]}" if found else ""


def _modules(model_name: str) -> Sequence[Mapping[str, Any]]:
    """What ``modules.json`` lists; empty without one."""
    modules = _read(model_name, _MODULES)
    if modules is None:
        return []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ConfigError(f"--model-name {model_name}: {_MODULES}: is not a list of modules; save the model again")
    return modules


def _kind(module: Mapping[str, Any]) -> str:
    """The name of a module's class."""
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _read(model_name: str, name: str) -> Any:
    """The JSON file of a local model or one of the Hub; None if there is none."""
    path = file_of_model(model_name, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"--model-name {model_name}: {name}: is not JSON: {error}; save the model again") from error
