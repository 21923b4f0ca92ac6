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
    return _settings(model_name)[0]


def saved_similarity(model_name: str) -> Similarity:
    """What scores of a saved model's vectors are; dot products if it does not say.

    Raises:
        ConfigError: the file cannot be read, or names a similarity that is not computed here.
    """
    return _settings(model_name)[1]


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


def _settings(model_name: str) -> tuple[Prompts, Similarity]:
    path = file_of_model(model_name, SETTINGS_NAME)
    if path is None:
        return Prompts(), "dot"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("prompts") or {}
        similarity: Similarity = content.get("similarity_fn_name") or "dot"
        prompts = Prompts(*(found.get(name) or "" for name in ("query", "document")))
        if not all(isinstance(prompt, str) for prompt in (prompts.query, prompts.document)):
            raise TypeError("a prompt is not text")
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity_fn_name is {similarity}, but only dot and cosine are computed here")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be used: {error}; mend it, or delete it") from error
    return prompts, similarity
