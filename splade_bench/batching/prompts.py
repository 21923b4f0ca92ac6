"""Texts that are put before queries and documents, as some models were trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TextKind = Literal["queries", "documents"]


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
        prompt = self.query if kind == "queries" else self.document
        return [prompt + text for text in texts]
