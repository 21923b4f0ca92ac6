"""Flags of ``train`` with values that do not belong there, alone and together."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reliability.calls import Called, Judged, accepting_data, accepting_flags, call
from splade_bench.cli.train import TrainCommand
from splade_bench.fields import option

TEXTS: Sequence[str] = (
    *(
        "",
        " ",
        "text",
        "nan",
        "-1",
        "-0.5",
        "1.5",
        "inf",
        "1e999",
        "0",
        "None",
        "True",
        "1_000",
        "0x10",
        "१२",
        "9" * 30,
    ),
    *("9" * 30, "💥", "\udcff", "a\nb", "--", "-", "*", "$(id)", "../..", "/dev/null", "latest", "1,2", "[1]", "{}"),
)
NUMBERS = ("1", "2", "3", "8", "64")
# Of a number, whatever the flag: they are refused.
NOT_NUMBERS = frozenset(
    {"", " ", "text", "nan", "-1", "-0.5", "💥", "a\nb", "-", "*", "$(id)", "../..", "1,2", "[1]", "{}"}
)
NOT_INTEGERS = NOT_NUMBERS | {"1.5", "inf", "1e999"}


def read_flags(count: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: each flag with each odd value, then random flags together."""
    generator = random.Random(seed)
    kinds = dict(_flags(TrainCommand))
    alone = [[(flag, text)] for flag in kinds for text in TEXTS]
    generator.shuffle(alone)
    with tempfile.TemporaryDirectory() as root, accepting_flags(), ExitStack() as stack:
        folder = Path(root)
        judged, here = Judged(folder), folder / "in" / "here"
        here.mkdir(parents=True)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(here)  # so a folder that a flag names, such as ../.., is in the temporary one
        for number in range(count):
            if number < min(len(alone), count * 3 // 4):
                given = alone[number]
            else:
                chosen = generator.sample([*kinds], generator.randint(2, 5))
                given = [(flag, generator.choice([*TEXTS, *NUMBERS])) for flag in chosen]
            named = {flag for flag, _ in given}
            where = [] if "--output-dir" in named else ["--output-dir", str(folder / "output")]
            arguments = [word for flag, text in given for word in (flag, text)]
            called = call(["train", *arguments, *where])
            seen = "accepted" if called.accepted else f"exit code {called.ended.exit_code}"
            alone_kind = kinds[given[0][0]] if len(given) == 1 else None
            judged.add(seen, _fault(called, alone_kind, given[0][1]), *arguments)
    expected = "what is not a value of the flag is exit code 2 and one line"
    return judged.fields(fault="odd values of the flags of train", expected=expected, seed=seed)


def read_cases(folder_name: str, *, seed: int) -> dict[str, Any]:
    """The same for files of real reports, each given to every flag that reads one."""
    files = sorted(path for path in Path(folder_name).rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as root, accepting_data():
        folder = Path(root)
        judged = Judged(folder)
        for path in files:
            output = ["--output-dir", str(folder / "output"), "--device", "cpu"]
            for flags in (
                ["train", "--train-file", str(path), *output],
                ["train", "--train-file", str(path), "--skip-bad-records", *output],
                ["evaluate", "--val-file", str(path), "--model-name", str(folder)],
                ["check", "--results", str(path), "--baseline", str(path)],
                ["compare", str(path), str(path)],
                ["report", "--results", str(path), "--output", str(folder / "pages")],
            ):
                called = call(flags)
                seen = "accepted" if called.accepted else f"exit code {called.ended.exit_code}"
                judged.add(f"{flags[0]}: {seen}", _bad_answer(called, flags[0]), path.name, *flags[:2])
    expected = "exit code 2 and one line, or texts that can be used"
    return judged.fields(fault="files of real reports", expected=expected, seed=seed)


def _flags(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each flag and the type of its value."""
    hints = get_type_hints(command)
    for one in fields(command):
        kind = hints[one.name]
        if is_dataclass(kind):
            yield from _flags(kind)
        else:
            yield option(one.name), kind


def _fault(called: Called, kind: Any, text: str) -> str | None:
    """What is wrong; ``kind``: the type of the only flag, None for several."""
    if not called.accepted:
        return called.ended.complaint(codes=(1, 2))
    members = get_args(kind) if get_origin(kind) not in (None, Literal) else (kind,)
    refused: frozenset[str] = frozenset()
    if int in members:
        refused = NOT_INTEGERS
    elif float in members:
        refused = NOT_NUMBERS
    elif any(get_origin(member) is Literal for member in members):
        values = {str(value) for member in members for value in get_args(member)} | {"None"}
        return None if text in values else f"accepted, but is none of {sorted(values)}"
    return f"accepted for {kind}" if text in refused else None


def _bad_answer(called: Called, verb: str) -> str | None:
    if called.accepted is None:
        codes, ended = (0, 1, 2, 3), called.ended
        return None if verb == "check" and ended.exit_code in (1, 3) else ended.complaint(verb=verb, codes=codes)
    triples = getattr(called.accepted, "triples", called.accepted)
    texts = [text for one in triples for text in (one.query, one.positive, *one.negatives)]
    return None if texts and all(text.strip() for text in texts) else "empty texts are accepted"
