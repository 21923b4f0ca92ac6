"""Flags from dataclass fields, and every usage error in one line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from splade_bench.errors import ConfigError
from splade_bench.results.records import finite_or_none

Command = TypeVar("Command")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(command: type[Command], arguments: Sequence[str], *, verb: str, default: Command | None = None) -> Command:
    """An instance of the dataclass ``command`` from flags named after its fields; --help prints and exits.

    Raises:
        ConfigError: an unknown flag or a value of the wrong kind.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                command,
                prog=f"splade-bench {verb}",
                args=list(arguments),
                default=default if default is not None else tyro.MISSING_NONPROP,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as ending:
        if not ending.code:
            raise
        raise ConfigError(f"{_first_paragraph(complaint.getvalue())} (see splade-bench {verb} --help)") from None


def print_json(record: dict[str, Any]) -> None:
    """The one JSON object that --json promises on standard output."""
    json.dump(finite_or_none(record), sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    print()


def _first_paragraph(box: str) -> str:
    """What is wrong: tyro frames a title, then this, then hints, with rules between them in one of three alphabets."""
    lines = [line.strip("│| ") for line in _COLOUR.sub("", box).splitlines()[1:]]
    is_text = [bool(set(line) - set("─╭╮╯╰-+")) for line in lines]
    paragraph = dropwhile(lambda pair: not pair[1], zip(lines, is_text, strict=True))
    return " ".join(line for line, _ in takewhile(lambda pair: pair[1], paragraph))
