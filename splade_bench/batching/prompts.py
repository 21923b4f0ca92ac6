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

    def before(self, texts: Sequence[str], kind: TextKind) -> list[str]:
        """The texts with their prompt."""
        prompt = self.query if kind == "queries" else self.document
        return [prompt + text for text in texts]
