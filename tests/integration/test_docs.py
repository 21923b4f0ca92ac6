"""The guides link to what is there, and name no flag and no file that is not."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from splade_bench.cli.arguments import parse
from splade_bench.cli.train import TrainCommand, parse_train_command
from splade_bench.config import MEMORY_TECHNIQUES, memory_mode
from splade_bench.errors import ConfigError

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "benchmarks" / "README.md", *GUIDES]

_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"--[a-z][a-z-]*[a-z]")
_STARTS = ("splade-bench", "pytest")
# What ends a command in a shell.
_ENDS = frozenset({"|", "&&", ";", ">", ">>"})


@pytest.fixture(scope="module")
def pytest_flags() -> Set[str]:
    """Every option of pytest in this project, its own included."""
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    # Two spaces, the names of an option with commas, and then its value or its text.
    names = [line for line in shown.splitlines() if re.match(r" {2}-", line)]
    return {flag for line in names for flag in _FLAG.findall(re.split(r" {2,}", line.strip())[0])}


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return _FENCED.sub("", text)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of this package and of pytest in a document's blocks of code, as words."""
    for block in _FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if "splade-bench" not in line and "pytest" not in line:
                continue
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # Python, or a sentence with an apostrophe
                continue
            while words:
                end = next((place for place, word in enumerate(words) if word in _ENDS), len(words))
                command, words = words[:end], words[end + 1 :]
                starts = [place for place, word in enumerate(command) if word in _STARTS]
                is_installed = "pip" in command
                if starts and not is_installed:
                    yield command[starts[0] :]


def complaint(command: Sequence[str], pytest_flags: Set[str]) -> str | None:
    """What is wrong with a documented command; None if it could be run."""
    program, *arguments = [word for word in command if word != "…"]
    if program == "pytest":
        return _complaint_of_pytest(arguments, pytest_flags)
    if not arguments or arguments[0] == "--help":
        return None
    verb, *flags = arguments
    if find_spec(f"splade_bench.cli.{verb}") is None:
        return f"no such verb: {verb}"
    if "--help" in flags:
        return None
    command_type: Any = getattr(import_module(f"splade_bench.cli.{verb}"), f"{verb.capitalize()}Command")
    is_training = "config" in command_type.__dataclass_fields__
    try:
        if is_training:
            parse_train_command(command_type, flags, verb=verb)
        else:
            parse(command_type, flags, verb=verb)
    except ConfigError as error:
        return str(error)
    return None


def _complaint_of_pytest(arguments: Sequence[str], known: Set[str]) -> str | None:
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            return f"pytest has no {flag}"
        path = argument.partition("::")[0]
        if path.startswith("benchmarks") and not (ROOT / path).exists():
            return f"there is no {path}"
    return None


def missing_links(text: str, folder: Path) -> list[str]:
    """Relative links whose file, or heading in it, is not there."""
    missing = []
    for target in _LINK.findall(prose(text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        linked = (
            (folder / name).read_text(encoding="utf-8") if name.endswith(".md") and (folder / name).is_file() else text
        )
        if (name and not (folder / name).exists()) or (anchor and anchor not in anchors(linked)):
            missing.append(target)
    return missing


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert not missing_links(document.read_text(encoding="utf-8"), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_command_in_a_block_of_code_could_be_run(document: Path, pytest_flags: Set[str]) -> None:
    found = {
        shlex.join(command): complaint(command, pytest_flags)
        for command in commands(document.read_text(encoding="utf-8"))
    }

    assert not {command: reason for command, reason in found.items() if reason}


def test_each_technique_has_the_flag_that_the_guide_says() -> None:
    text = (ROOT / "docs/memory-optimization.md").read_text(encoding="utf-8")
    flags = dict(re.findall(r"^\| `([a-z0-9-]+)` \| `(--[^`]+)` \|", text, re.MULTILINE))

    assert flags.keys() == MEMORY_TECHNIQUES.keys()
    for technique, flag in flags.items():
        command = parse_train_command(TrainCommand, ["--memory-mode", "standard", *flag.split()], verb="train")
        assert command.config.memory == memory_mode(f"standard+{technique}"), technique


def test_the_guides_have_commands_of_every_kind() -> None:
    starts = {
        tuple(command[: 1 + (command[0] == "splade-bench")])
        for guide in GUIDES
        for command in commands(guide.read_text(encoding="utf-8"))
    }

    assert starts >= {("pytest",), *(("splade-bench", verb) for verb in ("train", "plan", "fit", "doctor", "check"))}


@pytest.mark.parametrize("document", GUIDES, ids=by_name)
def test_every_flag_in_the_prose_belongs_to_a_verb_or_to_pytest(
    document: Path, pytest_flags: Set[str], flags_of_verbs: Set[str]
) -> None:
    inline = _INLINE.findall(prose(document.read_text(encoding="utf-8")))
    flags = {flag for code in inline for flag in _FLAG.findall(code)}

    assert flags <= pytest_flags | flags_of_verbs


@pytest.fixture(scope="module")
def flags_of_verbs() -> Set[str]:
    """Every flag that a line of a verb's help begins with."""
    from splade_bench.cli import _VERBS as verbs

    found: set[str] = set()
    for verb in verbs:
        found |= set(_flags_in_help(import_module(f"splade_bench.cli.{verb}").run))
    return found


def _flags_in_help(run: Callable[[Sequence[str]], int]) -> Iterator[str]:

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        run(["--help"])
    for line in shown.getvalue().splitlines():
        text = line.strip("│| ")
        if text.startswith("-"):
            yield from _FLAG.findall(re.split(r" {2,}", text)[0])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("splade-bench plan --made-up 1", "--made-up"),
        ("splade-bench train --batch-size many", "many"),
        ("splade-bench train --memory-mode fastest", "fastest"),
        ("splade-bench check --results a.jsonl", "--baseline"),
        ("splade-bench foretell", "foretell"),
        ("pytest benchmarks --made-up", "--made-up"),
        ("pytest benchmarks/test_made_up.py", "test_made_up"),
        ("cd x && splade-bench doctor --made-up | tee y", "--made-up"),
        ("splade-bench plan \\\n    --made-up", "--made-up"),
    ],
)
def test_a_command_that_could_not_be_run_is_found(command: str, reason: str, pytest_flags: Set[str]) -> None:
    (words,) = commands(f"Text.\n\n```\n{command}\n```\n")

    assert reason in (complaint(words, pytest_flags) or "")


@pytest.mark.parametrize("link", ["gone.md", "#no-such-heading", "here.md#no-such-heading", "../x/gone.py"])
def test_a_link_that_leads_nowhere_is_found(link: str, tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("# Here, and there\n")

    assert missing_links(f"[a](here.md), [b](here.md#here-and-there), [c]({link})", tmp_path) == [link]
