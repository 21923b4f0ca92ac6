"""Flags from the fields of a dataclass, and back; every usage error on one line."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from splade_bench.errors import ConfigError
from splade_bench.fields import option
from splade_bench.json_records import finite_or_none

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


def given_flags(arguments: Sequence[str]) -> dict[str, str]:
    """The flags of a command line, each by the name of its field, with the text that follows it.

    ``--no-x`` sets x, and ``--x=1`` is ``--x 1``. The last of equal flags counts. Nothing is checked.
    """
    given = {}
    for argument, next_argument in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            given[name.replace("-", "_").removeprefix("no_")] = value if equals else next_argument
    return given


def to_flags(wanted: Any, default: Any) -> Iterator[str]:
    """The flags with which :func:`parse`, given the dataclass ``default``, returns ``wanted``."""
    for field in fields(wanted):
        value, value_without = getattr(wanted, field.name), getattr(default, field.name)
        if is_dataclass(value):
            yield from to_flags(value, value_without)
        elif isinstance(value, bool) and value != value_without:
            yield option(field.name if value else f"no_{field.name}")
        elif value != value_without:
            yield from (option(field.name), str(value))


def show(record: Any, text: str, *, as_json: bool) -> None:
    """Print the one JSON object that --json promises, or else the text for people. Nothing if the terminal is gone."""
    # In ASCII: JSON that a console of another encoding would change is not JSON any more.
    shown = json.dumps(finite_or_none(record), indent=2) if as_json else text
    try:
        print(shown, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:  # what writing to a terminal that is gone raises
            raise


def _first_paragraph(box: str) -> str:
    """The complaint. tyro frames a title, it and hints; rules in one of three alphabets separate them."""
    lines = [line.strip("│| ") for line in _COLOUR.sub("", box).splitlines()[1:]]
    is_text = [bool(set(line) - set("─╭╮╯╰-+")) for line in lines]
    paragraph = dropwhile(lambda pair: not pair[1], zip(lines, is_text, strict=True))
    return " ".join(line for line, _ in takewhile(lambda pair: pair[1], paragraph))
