"""A report as data: pages of text, tables and pictures, before anything decides how they look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, headings or a list in Markdown, with names from results escaped."""

    markdown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings and rows of plain text. Each format that shows them escapes them itself."""

    name: str
    """Unique on its page; also the name of its exported file."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    commands: Sequence[str] = ()
    """For each row the command that measures it again; empty if a row is not one cell or call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawing."""

    name: str
    caption: str
    svg: str


Block: TypeAlias = Text | Table | Picture


@dataclass(frozen=True, slots=True)
class Page:
    """The content of ``NAME.md``."""

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


Columns: TypeAlias = Sequence[tuple[str, Callable[[Item], str]]]
"""Headings, each with the function that makes a row's text from an item."""


def table_of(name: str, items: Sequence[Item], columns: Columns[Item], *, commands: Sequence[str] = ()) -> Table:
    """A table with one row per item."""
    return Table(
        name=name,
        headings=[heading for heading, _ in columns],
        rows=[[text(item) for _, text in columns] for item in items],
        commands=commands,
    )


def file_name(name: str) -> str:
    """The name of a table or picture as a file name that cannot leave its folder: it may come from a results file."""
    return "".join(character if character.isalnum() or character in "-." else "_" for character in name).lstrip(".")


def bullets(lines: Sequence[str], *, heading: str | None = None) -> list[Block]:
    """A list under an optional heading; nothing for no lines."""
    if not lines:
        return []
    return [Text("\n".join([*([heading, ""] if heading else []), *(f"- {line}" for line in lines)]))]
