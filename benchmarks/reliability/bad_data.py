"""Training and validation files that are damaged in ways that are known, and in random ways."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.calls import Called, Judged, accepting_data, call
from reliability.toy import record

# What no text may be.
BAD_TEXTS: Sequence[Any] = (None, 5, 1.5, True, [], ["text"], {}, {"document": "text"}, "", " ", "\n\t", "\u2003")
BAD_NEGATIVES: Sequence[Any] = (
    *("", "text", 5, True, {}, {"document": "text"}, [""], [" "], [None], [5], [[]], [["text"]]),
    *([{}], [{"document": ""}], [{"document": None}], [{"text": "text"}], ["good", ""], ["good", {"document": 5}]),
)
BAD_LINES: Sequence[bytes] = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"{}",
        b"NaN",
        b"text",
        b"{'query': 'text'}",
        b'{"a": }',
    ),
    *(b'{"a": }', b'{"query": "a"', b'{"query": "a", }', b'{"query": "\xff\xfe"}', b"[" * 5000, b'{"a":' * 5000),
    *(b'{"query": "\\ud800", "positive_document": "a", "negative_documents": ["a"]}', b'{"query": 1e999}'),
    *(b"\x00\x01\x02", b"\x1f\x8b"),
)
BAD_FILES: Sequence[bytes] = (b"", b" \n\n", b"[]", b"{}", b"null", b"\xff", b"[{}]", b"PK\x03\x04", b"\x80\x04]\x94.")
Texts = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Damaged:
    """A file and what must be made of it."""

    kind: str
    content: bytes
    good: Sequence[Texts]
    """The records that can be used."""
    must_be: str | None
    """accepted, refused, or None: either, as long as nothing that is accepted is bad."""
    line: int | None = None
    """The damaged line, which a refusal names."""


def read_training_files(count: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``; every third file is read with --skip-bad-records."""

    def flags(path: Path, folder: Path, skip: bool) -> list[str]:
        named = ["train", "--train-file", str(path), "--output-dir", str(folder / "output"), "--device", "cpu"]
        return [*named, *(["--skip-bad-records"] if skip else [])]

    return _campaign("training files", flags, count, seed=seed, may_skip=True)


def read_validation_files(count: int, *, seed: int) -> dict[str, Any]:
    """The same for validation files, with ``evaluate``."""

    def flags(path: Path, folder: Path, skip: bool) -> list[str]:
        return ["evaluate", "--val-file", str(path), "--model-name", str(folder), "--device", "cpu"]

    return _campaign("validation files", flags, count, seed=seed, may_skip=False)


def _campaign(
    subject: str, flags: Callable[[Path, Path, bool], list[str]], count: int, *, seed: int, may_skip: bool
) -> dict[str, Any]:
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as root, accepting_data():
        folder = Path(root)
        judged = Judged(folder)
        for number in range(count):
            skip = may_skip and number % 3 == 0
            damaged = damaged_file(generator, need_negatives=may_skip)
            path = folder / f"{number}.jsonl"
            path.write_bytes(damaged.content)
            arguments = flags(path, folder, skip)
            called = call(arguments)
            seen = "accepted" if called.accepted else "refused"
            fault = _fault(called, damaged, path, arguments[0], skip)
            judged.add(f"{seen} ({damaged.kind})", fault, damaged.content[:100])
            path.unlink()
        left = [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
        judged.failures += [f"left behind: {', '.join(left)}"] if left else []
    expected = "bad ones are refused, exit code 2 and one line with file and line; good ones are read as they are"
    return judged.fields(fault=f"damaged {subject}", expected=expected, seed=seed)


def damaged_file(generator: random.Random, *, need_negatives: bool) -> Damaged:
    """A random file of up to six records, which all need negatives or all may lack them."""
    records = [record(generator) for _ in range(generator.randint(1, 6))]
    lines = [json.dumps(one).encode() for one in records]
    place = generator.randrange(len(lines))
    good = [_texts(one) for one in records]
    others = good[:place] + good[place + 1 :]
    kind = generator.choice(("field", "missing", "negatives", "line", "file", "cut", "bytes", "good", "good"))
    if kind == "good":
        return Damaged(kind="as it should be", content=_harmless(records, generator), good=good, must_be="accepted")
    if kind == "file":
        return Damaged(kind="not such a file", content=generator.choice(BAD_FILES), good=[], must_be="refused")
    if kind == "cut":
        whole = b"\n".join(lines)
        content = whole[: generator.randrange(len(whole))]
        return Damaged(kind="cut", content=content, good=good, must_be=None)
    if kind == "bytes":
        content = _scrambled(b"\n".join(lines), generator)
        return Damaged(kind="random bytes", content=content, good=good, must_be=None)
    if kind == "line":  # where such a line ends is a guess, so which line is named is left open
        lines[place] = generator.choice(BAD_LINES)
        return Damaged(kind="bad line", content=b"\n".join(lines), good=others, must_be="refused")
    needed = ("query", "positive_document", *(["negative_documents"] if need_negatives else []))
    lines[place] = _bad_record(kind, records[place], needed, generator)
    return Damaged(kind=f"bad {kind}", content=b"\n".join(lines), good=others, must_be="refused", line=place + 1)


def _bad_record(kind: str, whole: dict[str, object], needed: Sequence[str], generator: random.Random) -> bytes:
    damaged = dict(whole)
    if kind == "missing":
        del damaged[generator.choice(needed)]
    elif kind == "negatives":
        damaged["negative_documents"] = generator.choice(BAD_NEGATIVES)
    else:
        damaged[generator.choice(("query", "positive_document"))] = generator.choice(BAD_TEXTS)
    return json.dumps(damaged).encode()


def _harmless(records: Sequence[dict[str, object]], generator: random.Random) -> bytes:
    """The records in one of the forms that are allowed."""
    form = generator.choice(("list", "crlf", "blank lines", "mark", "documents", "keys", "newline"))
    if form == "list":
        return json.dumps(records, indent=generator.choice((None, 1))).encode()
    if form == "documents":
        records = [one | {"negative_documents": [{"document": text} for text in _texts(one)[2]]} for one in records]
    if form == "keys":
        records = [{"id": 5, **one, "score": None, "source": {"a": [1]}} for one in records]
    separator = {"crlf": b"\r\n", "blank lines": b"\n\n  \n"}.get(form, b"\n")
    lines = separator.join(json.dumps(one, ensure_ascii=False).encode() for one in records)
    return (b"\xef\xbb\xbf" if form == "mark" else b"") + lines + (b"\n" if form == "newline" else b"")


def _scrambled(whole: bytes, generator: random.Random) -> bytes:
    """Some bytes flipped, deleted or put in."""
    content = bytearray(whole)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(content))
        match generator.randrange(3):
            case 0:
                content[place] ^= 1 << generator.randrange(8)
            case 1:
                del content[place]
            case _:
                content.insert(place, generator.randrange(256))
    return bytes(content)


def _texts(one: dict[str, Any]) -> Texts:
    return one["query"], one["positive_document"], tuple(one["negative_documents"])


def _fault(called: Called, damaged: Damaged, path: Path, verb: str, skip: bool) -> str | None:
    """What is wrong with the outcome."""
    if called.accepted is None:
        if fault := called.ended.complaint(verb=verb):
            return fault
        if called.ended.exit_code != 2 or path.name not in called.ended.output:
            return f"exit code {called.ended.exit_code}, or the file is not named: {called.ended.output}"
        named = damaged.line is None or skip or f"{path.name}:{damaged.line}:" in called.ended.output
        if not named:
            return f"line {damaged.line} is not named: {called.ended.output}"
        may_refuse = damaged.must_be != "accepted" and not (skip and damaged.line and damaged.good)
        return None if may_refuse else f"a good file is refused: {called.ended.output}"
    triples = getattr(called.accepted, "triples", called.accepted)
    read = [(one.query, one.positive, one.negatives) for one in triples]
    if damaged.must_be == "refused" and not skip:
        return f"a bad file is accepted: {read}"
    if damaged.must_be == "accepted" and read != list(damaged.good):
        return f"read as {read}"
    bad = [one for one in read if not all(isinstance(text, str) and text.strip() for text in (*one[:2], *one[2]))]
    return f"bad texts are accepted: {bad}" if bad or not read else None
