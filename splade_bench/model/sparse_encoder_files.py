"""The files with which sentence-transformers loads a model folder as what it is: a SparseEncoder."""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file

from splade_bench.model.activations import ACTIVATION_FUNCTIONS
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.saved_settings import SETTINGS_NAME, settings_of
from splade_bench.model.saving import TOKENIZER_CONFIG, change_json

logger = logging.getLogger(__name__)

# These names are in all releases of sentence-transformers that have a SparseEncoder, and in the models of the Hub.
_CLASSES = "sentence_transformers.sparse_encoder.models"
_ROUTER = "sentence_transformers.models.Router"
_TRANSFORMER, _POOLING, _QUERIES = ".", "1_SpladePooling", "query_0_SparseStaticEmbedding"
_TYPES = {_TRANSFORMER: "MLMTransformer", _POOLING: "SpladePooling", _QUERIES: "SparseStaticEmbedding"}
_FUNCTION_OF = MappingProxyType({activation: function for function, activation in ACTIVATION_FUNCTIONS.items()})


def write_sparse_encoder_files(folder: Path, encoder: SpladeEncoder) -> None:
    """Add to the folder of a saved encoder what ``SparseEncoder(folder)`` reads beside the model and its tokenizer.

    transformers does not look at these files. If queries have static weights, the files are those of a Router.

    Args:
        folder: where the encoder was saved.
        encoder: it decides vocabulary, length, activation, queries and prompts.

    Raises:
        OSError: the files cannot be written.
    """
    routes = encoder.query_weights is not None
    if routes and len(encoder.tokenizer) != encoder.vocab_size:
        logger.warning(
            "the model has %d entries and its tokenizer %d tokens: SparseEncoder cannot have static queries for it, so "
            "its files are left out",
            *(encoder.vocab_size, len(encoder.tokenizer)),
        )
        return
    pooling = {
        "pooling_strategy": "max",
        "activation_function": _FUNCTION_OF[encoder.activation],
        "word_embedding_dimension": encoder.vocab_size,
    }
    (folder / _POOLING).mkdir(exist_ok=True)
    _write(folder / _POOLING / "config.json", pooling)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": encoder.max_length, "do_lower_case": False})
    _write(folder / SETTINGS_NAME, settings_of(encoder.prompts, encoder.similarity))
    if routes:
        _write_static_queries(folder, encoder)
    _write(folder / "modules.json", [_module(0, "", _ROUTER)] if routes else _plain_modules())


def _plain_modules() -> list[Mapping[str, Any]]:
    return [
        _module(0, "", f"{_CLASSES}.{_TYPES[_TRANSFORMER]}"),
        _module(1, _POOLING, f"{_CLASSES}.{_TYPES[_POOLING]}"),
    ]


def _module(number: int, path: str, class_name: str) -> Mapping[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": class_name}


@torch.no_grad()
def _write_static_queries(folder: Path, encoder: SpladeEncoder) -> None:
    """The route of queries, with a tokenizer of its own, and the Router."""
    assert encoder.static_queries is not None
    queries = folder / _QUERIES
    queries.mkdir(exist_ok=True)
    for path in [*folder.glob("tokenizer*"), *folder.glob("special_tokens_map.json"), *folder.glob("vocab.txt")]:
        shutil.copyfile(path, queries / path.name)
    # This module takes the special tokens off, and counts the others only.
    words = encoder.max_length - encoder.tokenizer.num_special_tokens_to_add()
    change_json(queries / TOKENIZER_CONFIG, lambda settings: settings | {"model_max_length": words})
    static = encoder.static_queries
    weight = (static.weight * static.is_word).relu().float().cpu().contiguous()
    _write(queries / "config.json", {"frozen": False})
    weights_path = queries / "model.safetensors"
    save_file({"weight": weight}, weights_path)
    # safetensors makes its file readable by its owner only.
    weights_path.chmod(stat.S_IMODE((queries / "config.json").stat().st_mode))
    router = {
        "types": {name: f"{_CLASSES}.{class_name}" for name, class_name in _TYPES.items()},
        "structure": {"query": [_QUERIES], "document": [_TRANSFORMER, _POOLING]},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    _write(folder / "router_config.json", router)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
