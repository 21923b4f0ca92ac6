"""The documents are true: their links, commands, flags, paths and names exist. They are short and in plain words."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from splade_bench.cli import main
from splade_bench.cli.arguments import parse
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_TECHNIQUES, memory_mode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "splade_bench"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md", *GUIDES]
REPORTS = sorted((ROOT / "reports").glob("*.md"))
MAX_README_LINES = 140
MAX_GLOSSARY_TERMS = 20
BANNED_PHRASES = (" is no ", "whoever", "in earnest", "is taken for")

_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"--[a-z][a-z-]*[a-z]")
_VARIABLE = re.compile(r"\$\{?\w+\}?")
_PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+(?:\.(?:py|toml|md|log|jsonl|yml)|/)")
_NAME = re.compile(r"[A-Za-z_]\w*")
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


@pytest.fixture(scope="module")
def help_texts() -> Mapping[str, str]:
    """What --help prints, for each verb."""
    verbs = re.findall(r"^  ([a-z]+)  ", help_text("--help"), re.MULTILINE)
    assert {"train", "plan", "report", "doctor"} <= set(verbs)
    return {verb: help_text(verb, "--help") for verb in verbs}


def help_text(*arguments: str) -> str:
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        patch.setenv("COLUMNS", "80")  # a wide terminal gets boxes side by side
        main(arguments)
    return shown.getvalue()


@pytest.fixture(scope="module")
def flags_of_verbs(help_texts: Mapping[str, str]) -> Set[str]:
    """Every flag that a line of a verb's help begins with."""
    lines = [line.strip("│| ") for text in help_texts.values() for line in text.splitlines()]
    return {flag for line in lines if line.startswith("-") for flag in _FLAG.findall(re.split(r" {2,}", line)[0])}


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return _FENCED.sub("", text)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of this package and of pytest in a document's blocks of code, as words."""
    for block in _FENCED.findall(text):
        # A variable of a script may be any number.
        for line in _VARIABLE.sub("1", block.replace("\\\n", " ")).splitlines():
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


def complaint(command: Sequence[str], pytest_flags: Set[str], verbs: Set[str]) -> str | None:
    """What is wrong with a documented command; None if it could be run."""
    program, *arguments = [word for word in command if word != "…"]
    if program == "pytest":
        return _complaint_of_pytest(arguments, pytest_flags)
    if not arguments or arguments[0] == "--help":
        return None
    verb, *flags = arguments
    if verb not in verbs:
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


def table_rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of each row of the first table after a heading, without the table's own heading."""
    section = document.read_text(encoding="utf-8").partition(f"{heading}\n")[2]
    table = re.search(r"(?:^\|.*\|$\n?)+", section, re.MULTILINE)
    assert table, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def import_contract(kind: str) -> Mapping[str, Any]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == kind)
    return dict(contract)


def path_of(name: str) -> Path | None:
    """The file or folder that a document calls ``name``, from the root or from the package; None: it does not exist."""
    return next((folder / name for folder in (ROOT, PACKAGE) if (folder / name).exists()), None)


@pytest.mark.parametrize("document", [*DOCUMENTS, *REPORTS], ids=by_name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert not missing_links(document.read_text(encoding="utf-8"), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_command_in_a_block_of_code_could_be_run(
    document: Path, pytest_flags: Set[str], help_texts: Mapping[str, str]
) -> None:
    found = {
        shlex.join(command): complaint(command, pytest_flags, help_texts.keys())
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_flag_in_the_prose_belongs_to_a_verb_or_to_pytest(
    document: Path, pytest_flags: Set[str], flags_of_verbs: Set[str]
) -> None:
    inline = _INLINE.findall(prose(document.read_text(encoding="utf-8")))
    flags = {flag for code in inline for flag in _FLAG.findall(code)}

    assert flags <= pytest_flags | flags_of_verbs


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
def test_a_command_that_could_not_be_run_is_found(
    command: str, reason: str, pytest_flags: Set[str], help_texts: Mapping[str, str]
) -> None:
    (words,) = commands(f"Text.\n\n```\n{command}\n```\n")

    assert reason in (complaint(words, pytest_flags, help_texts.keys()) or "")


@pytest.mark.parametrize("link", ["gone.md", "#no-such-heading", "here.md#no-such-heading", "../x/gone.py"])
def test_a_link_that_leads_nowhere_is_found(link: str, tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("# Here, and there\n")

    assert missing_links(f"[a](here.md), [b](here.md#here-and-there), [c]({link})", tmp_path) == [link]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_glossary_has_few_terms_and_one_row_for_each() -> None:
    rows = table_rows(ROOT / "docs" / "glossary.md", "# Glossary")
    terms = [re.sub(r"\*\*", "", term) for term, meaning, where in rows if meaning and where]

    assert len(terms) == len(set(terms)) == len(rows) <= MAX_GLOSSARY_TERMS
    assert {"cell", "workload", "technique", "plan", "baseline", "probe"} <= set(terms)


def test_the_readme_links_to_the_glossary_and_to_every_guide() -> None:
    linked = set(_LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))

    assert {f"docs/{guide.name}" for guide in GUIDES} - linked <= {"docs/facts.md"}  # ARCHITECTURE.md links to that one


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_a_document_is_in_plain_words(document: Path) -> None:
    text = " ".join(document.read_text(encoding="utf-8").split()).lower()

    assert not [phrase for phrase in BANNED_PHRASES if phrase in text]


def test_the_help_is_in_plain_words(help_texts: Mapping[str, str]) -> None:
    for verb, shown in help_texts.items():
        text = " ".join(re.sub(r"[│|]", " ", shown).split()).lower()
        assert not [phrase for phrase in BANNED_PHRASES if phrase in text], verb


def test_the_import_order_is_the_one_that_the_linter_checks() -> None:
    rows = table_rows(ARCHITECTURE, "## Who may import whom")
    without_torch = {name.partition(".")[2] for name in import_contract("forbidden")["source_modules"]}

    layers = [{name.strip("` ") for name in names.split("·")} for names, _ in rows]
    assert layers == [{name.strip() for name in layer.split("|")} for layer in import_contract("layers")["layers"]]
    for names, torch in rows:
        packages = [name.strip("` ") for name in names.split("·")]
        answer = {package: "no" if package in without_torch else "yes" for package in packages}
        each = " · ".join(f"`{package}` {answer[package]}" for package in packages)
        assert torch == (each if len(set(answer.values())) > 1 else answer[packages[0]]), names


def test_each_part_of_the_package_has_a_place_in_the_architecture() -> None:
    places = {path for place, _ in table_rows(ARCHITECTURE, "## Where things are") for path in _INLINE.findall(place)}
    parts = {f"{path.name}/" if path.is_dir() else path.name for path in PACKAGE.iterdir()}

    assert places == {part for part in parts if not part.startswith("__")} - {"py.typed"}


@pytest.mark.parametrize("document", [*DOCUMENTS, *REPORTS], ids=by_name)
def test_every_path_of_the_package_in_the_prose_exists(document: Path) -> None:
    inline = _INLINE.findall(prose(document.read_text(encoding="utf-8")))
    parts = {path.name for path in [*PACKAGE.iterdir(), *ROOT.iterdir()] if path.is_dir()}
    paths = [code for code in inline if _PATH.fullmatch(code) and code.partition("/")[0] in parts]

    assert not [path for path in paths if path_of(path) is None]


def answers() -> Mapping[str, str]:
    """What ARCHITECTURE.md says of where to add each thing: its sections, and the rows of the table after them."""
    text = ARCHITECTURE.read_text(encoding="utf-8").partition("## Where do I add …\n")[2]
    *sections, (heading, _) = re.findall(r"^### (.+)\n((?:(?!###).*\n)*)", text, re.MULTILINE)
    assert heading == "Smaller things"
    return {**dict(sections), **{topic: answer for topic, answer in table_rows(ARCHITECTURE, f"### {heading}")}}


def test_every_name_in_the_answers_is_in_a_module_of_the_same_answer() -> None:
    for topic, answer in answers().items():
        inline = _INLINE.findall(answer)
        paths = [path for code in inline if code.endswith(".py") and (path := path_of(code))]
        known = set().union(*(names_in(path) for path in paths if PACKAGE in path.parents))
        assert {code for code in inline if _NAME.fullmatch(code)} <= known, topic
        assert paths, topic


def names_in(path: Path) -> Set[str]:
    """What a module of the package has, and what its classes have."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return set(vars(module)).union(*map(dir, classes))


def test_a_newcomer_finds_where_to_add_what() -> None:
    topics = {re.sub(r"^an? |\*\*", "", topic).replace("**", "") for topic in answers()}

    assert topics >= {"figure", "technique", "loss", "page", "device", "output format", "signal", "model"}
