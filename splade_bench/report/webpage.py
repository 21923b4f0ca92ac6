"""The report as one HTML file without external scripts, styles, fonts or pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from splade_bench.errors import one_line
from splade_bench.report.page import Page, Picture, Table, Text

WEBPAGE_NAME = "report.html"
_TEMPLATE = "report.html.jinja"


def webpage(pages: Sequence[Page]) -> str:
    """The HTML of all pages, one after the other.

    A click on a heading sorts a table, and a field above it filters its rows. The row of a cell links to the command
    that measures it again. All text from results is escaped.
    """
    environment = Environment(
        loader=PackageLoader("splade_bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    commands: list[str] = []
    sections = {page.name: list(_parts(page, commands)) for page in pages}
    return environment.get_template(_TEMPLATE).render(sections=sections, commands=commands)


@dataclass(frozen=True, slots=True)
class _Row:
    cells: Sequence[str]
    command: int | None
    """Number of its command in the list at the end, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A block for the template: text, picture or table is set."""

    text: Markup | None = None
    picture: Picture | None = None
    picture_url: str = ""
    table: Table | None = None
    rows: Sequence[_Row] = ()


def _parts(page: Page, commands: list[str]) -> Iterator[_Part]:
    """The blocks of a page. Adds the commands of its rows to ``commands``."""
    to_html = MarkdownIt("commonmark", {"html": False})
    for block in page.blocks:
        if isinstance(block, Text):
            yield _Part(text=Markup(to_html.render(block.markdown)))
        elif isinstance(block, Picture):
            # As separate images, so that the ids in two pictures cannot collide.
            encoded = base64.b64encode(block.svg.encode()).decode()
            yield _Part(picture=block, picture_url=f"data:image/svg+xml;base64,{encoded}")
        else:
            yield _Part(table=block, rows=list(_rows(block, commands)))


def _rows(table: Table, commands: list[str]) -> Iterator[_Row]:
    for number, row in enumerate(table.rows):
        if table.commands:
            commands.append(one_line(table.commands[number]))
        yield _Row([one_line(cell) for cell in row], len(commands) if table.commands else None)
