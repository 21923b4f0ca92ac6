"""Pictures as SVG: the same bytes for the same input, readable on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from splade_bench.errors import one_line
from splade_bench.report.page import Block, Picture

Target: TypeAlias = Path | IO[bytes]
"""A file whose suffix names the format, or a stream for SVG."""

INK = "#7a7a7a"  # a grey with contrast to white and to black
COLOURS = ("#d1495b", "#e08e29", "#2e86ab", "#5b8c5a", "#8e6bbf", "#6b7a8f")
_WIDTH_IN, _WIDE_IN, _HEIGHT_IN = 7.0, 10.0, 4.2
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "splade_bench",  # otherwise element ids are random
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@contextmanager
def drawing(
    target: Target, *, columns: int = 1, share_y: bool = False, height_in: float = _HEIGHT_IN
) -> Iterator[Sequence[Axes]]:
    """Axes side by side. When the block ends, the picture is written to ``target``."""
    with mpl.rc_context(_STYLE):
        width_in = _WIDTH_IN if columns == 1 else _WIDE_IN
        figure = Figure(figsize=(width_in, height_in), layout="constrained")  # no pyplot: nothing global
        yield figure.subplots(1, columns, squeeze=False, sharey=share_y)[0]
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
        is_svg = not isinstance(target, Path) or target.suffix == ".svg"
        settings = {"format": "svg", "metadata": {"Date": None}} if is_svg else {}
        figure.savefig(target, transparent=True, **settings)


def picture(name: str, caption: str, plot: Callable[..., None], *arguments: Any) -> list[Block]:
    """What ``plot(*arguments, target)`` draws, as a block of a page; nothing if its first argument is empty."""
    if not arguments[0]:
        return []
    stream = io.BytesIO()
    plot(*arguments, stream)
    return [Picture(name=name, caption=caption, svg=stream.getvalue().decode())]


def label(text: str) -> str:
    """Text from results for a picture, with dollar signs escaped: they would start a formula."""
    return one_line(text).replace("$", r"\$")
