"""The prompts and the similarity of a saved model, in the file in which sentence-transformers keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from splade_bench.batching.prompts import Prompts
from splade_bench.errors import ConfigError
from splade_bench.model.model_files import file_of_model
from splade_bench.objective import Similarity

SETTINGS_NAME = "config_sentence_transformers.json"


def saved_prompts(model_name: str) -> Prompts:
    """The prompts of a saved model; none if it has none.

    Raises:
        ConfigError: the file cannot be read, or a prompt is not text.
    """
    path, content = _read(model_name)
    found = content.get("prompts") or {}
    if not isinstance(found, dict):
        raise _unusable(path, "its prompts are not an object")
    prompts = Prompts(*(found.get(name) or "" for name in ("query", "document")))
    if not all(isinstance(prompt, str) for prompt in (prompts.query, prompts.document)):
        raise _unusable(path, "a prompt is not text")
    return prompts


def saved_similarity(model_name: str) -> Similarity:
    """What scores of a saved model's vectors are; dot products if it does not say, or is not a sparse encoder.

    Raises:
        ConfigError: the file cannot be read, or names a similarity that is not computed here.
    """
    path, content = _read(model_name)
    # That of a dense encoder is not about the vectors that a head makes of it.
    of_sparse = content.get("similarity_fn_name") if content.get("model_type") == "SparseEncoder" else None
    similarity: Similarity = of_sparse or "dot"
    if similarity not in get_args(Similarity):
        raise _unusable(path, f"similarity_fn_name is {similarity}, but only dot and cosine are computed here")
    return similarity


def settings_of(prompts: Prompts, similarity: Similarity) -> Mapping[str, Any]:
    """The content of that file."""
    return {
        "model_type": "SparseEncoder",
        "similarity_fn_name": similarity,
        "prompts": {"query": prompts.query, "document": prompts.document},
        "default_prompt_name": None,
    }


def save_settings(folder: Path, prompts: Prompts, similarity: Similarity) -> None:
    """Write them into a model's folder; if they are the usual ones, see that it has none."""
    if (prompts, similarity) == (Prompts(), "dot"):
        (folder / SETTINGS_NAME).unlink(missing_ok=True)
        return
    content = json.dumps(settings_of(prompts, similarity), indent=2, ensure_ascii=False)
    (folder / SETTINGS_NAME).write_text(content + "\n", encoding="utf-8")


def _read(model_name: str) -> tuple[Path | None, Mapping[str, Any]]:
    """The file and its content; empty without one."""
    path = file_of_model(model_name, SETTINGS_NAME)
    if path is None:
        return None, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is not an object")
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path, error) from error
    return path, content


def _unusable(path: Path | None, reason: object) -> ConfigError:
    return ConfigError(f"{path}: cannot be used: {reason}; mend it, or delete it")
