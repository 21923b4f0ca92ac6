"""Texts that are put before queries and documents, as some models were trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from splade_bench.batching.cutting import first_token_ids
from splade_bench.errors import ConfigError

TextKind = Literal["queries", "documents"]
_FLAGS = {"queries": "--query-prompt", "documents": "--document-prompt"}


@dataclass(frozen=True, slots=True)
class Prompts:
    """The text before each query, and that before each document."""

    query: str = ""
    document: str = ""

    def replaced(self, query: str | None, document: str | None) -> Prompts:
        """These prompts, but for those that are given."""
        return Prompts(self.query if query is None else query, self.document if document is None else document)

    def before(self, texts: Sequence[str], kind: TextKind) -> list[str]:
        """The texts with their prompt."""
        prompt = self.of(kind)
        return [prompt + text for text in texts]

    def of(self, kind: TextKind) -> str:
        return self.query if kind == "queries" else self.document

    def require_room(self, tokenizer: PreTrainedTokenizerBase, kind: TextKind, *, max_length: int) -> None:
        """Check that a prompt does not fill the ``max_length`` tokens after which a text is cut.

        Raises:
            ConfigError: it does, so all texts would have the same vector.
        """
        prompt = self.of(kind)
        if prompt and len(first_token_ids(tokenizer, [prompt], max_length=max_length)[0]) == max_length:
            raise ConfigError(
                f"--max-length {max_length}: the prompt of {kind} fills it, so nothing of a text would be read; give "
                f"a larger one, or train with a shorter {_FLAGS[kind]}"
            )
