"""The prompts of a saved model, in the file in which sentence-transformers keeps them."""

from __future__ import annotations

import json
from pathlib import Path

from splade_bench.batching.prompts import Prompts
from splade_bench.errors import ConfigError
from splade_bench.model.model_files import file_of_model

_NAME = "config_sentence_transformers.json"


def saved_prompts(model_name: str) -> Prompts:
    """The prompts of a saved model; none if it has none.

    Raises:
        ConfigError: the file cannot be read, or a prompt is not text.
    """
    path = file_of_model(model_name, _NAME)
    if path is None:
        return Prompts()
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
        prompts = Prompts(*(found.get(name) or "" for name in ("query", "document")))
        if not all(isinstance(prompt, str) for prompt in (prompts.query, prompts.document)):
            raise TypeError("a prompt is not text")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be used: {error}; mend it, or delete it") from error
    return prompts


def save_prompts(folder: Path, prompts: Prompts) -> None:
    """Write prompts into a model's folder; without any, see that it has none."""
    if prompts == Prompts():
        (folder / _NAME).unlink(missing_ok=True)
        return
    content = {"model_type": "SparseEncoder", "prompts": {"query": prompts.query, "document": prompts.document}}
    (folder / _NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
