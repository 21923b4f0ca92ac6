"""Pages as GitHub Markdown. Text from results is escaped, so that it cannot change the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from splade_bench.errors import one_line
from splade_bench.report.page import Block, Page, Picture, Table, file_name

PLOTS = "plots"
_NAME = re.compile(r"[\w.+-]+")
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]|~"})
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def page_markdown(page: Page) -> str:
    """The whole page, which refers to its pictures as files in ``plots/``."""
    return "\n\n".join(_block_markdown(block).strip("\n") for block in page.blocks) + "\n"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table with escaped cells."""
    escaped = [[escape(text) for text in row] for row in rows]
    return tabulate(escaped, headers=headings, tablefmt="github", disable_numparse=True)


def escape(text: str) -> str:
    """Text on one line that Markdown and HTML show unchanged."""
    return one_line(text).translate(_MARKUP).translate(_HTML)


def code(name: str) -> str:
    """A name as code. A name with unusual characters is only escaped: it could end the code."""
    return f"`{name}`" if _NAME.fullmatch(name) else escape(name)


def _block_markdown(block: Block) -> str:
    if isinstance(block, Table):
        return markdown(block.headings, block.rows)
    if isinstance(block, Picture):
        return f"![{block.caption}]({PLOTS}/{file_name(block.name)}.svg)"
    return block.markdown
