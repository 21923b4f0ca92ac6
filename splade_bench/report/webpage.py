"""The report as one HTML file without external scripts, styles, fonts or pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from splade_bench.errors import one_line
from splade_bench.report.page import Page, Picture, Text

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


def _parts(page: Page, commands: list[str]) -> Iterator[Mapping[str, Any]]:
    """The blocks of a page as the template takes them. Adds the commands of its rows to ``commands``."""
    to_html = MarkdownIt("commonmark", {"html": False})
    for block in page.blocks:
        if isinstance(block, Text):
            yield {"text": Markup(to_html.render(block.markdown))}
        elif isinstance(block, Picture):
            # As separate images, so that the ids in two pictures cannot collide.
            encoded = base64.b64encode(block.svg.encode()).decode()
            yield {"caption": block.caption, "url": f"data:image/svg+xml;base64,{encoded}"}
        else:
            rows = [[one_line(cell) for cell in row] for row in block.rows]
            yield {"table": block, "rows": rows, "first_command": len(commands) + 1}
            commands += map(one_line, block.commands)
