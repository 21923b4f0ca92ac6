"""A report as data: pages of text, tables and pictures, before anything decides how they look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, headings or a list, in Markdown; names from results in it are escaped."""

    markdown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings and rows of plain text: whoever shows them escapes them."""

    name: str
    """What it is called among the tables of its page, and in the files that it is exported to."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    commands: Sequence[str] = ()
    """For each row the command that measures it anew; empty where rows are not of single cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawing."""

    name: str
    caption: str
    svg: str


Block: TypeAlias = Text | Table | Picture


@dataclass(frozen=True, slots=True)
class Page:
    """What becomes ``NAME.md``."""

    name: str
    blocks: Sequence[Block]

    @property
    def tables(self) -> Iterator[Table]:
        """Its tables, in order."""
        return (block for block in self.blocks if isinstance(block, Table))

    @property
    def pictures(self) -> Iterator[Picture]:
        """Its drawings, in order."""
        return (block for block in self.blocks if isinstance(block, Picture))


def file_name(name: str) -> str:
    """The name of a table or picture, in which may be a workload's from a file, as one that stays in its folder."""
    return "".join(character if character.isalnum() or character in "-." else "_" for character in name).lstrip(".")


def bullets(lines: Sequence[str], *, heading: str | None = None) -> list[Block]:
    """A list, under a line that says what it is; nothing for no lines."""
    if not lines:
        return []
    return [Text("\n".join([*([heading, ""] if heading else []), *(f"- {line}" for line in lines)]))]
