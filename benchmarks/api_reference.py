"""The reference of the public names, made of their docstrings.

    python benchmarks/api_reference.py docs/api.md

Public are the names in ``PUBLIC`` and nothing else: these keep their meaning from one version to the next. The source
is read, not imported, so neither torch nor an extra has to be there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
# section -> names, as they are imported
PUBLIC: Mapping[str, Sequence[str]] = {
    "Train": (
        "splade_bench.model.SpladeEncoder",
        "splade_bench.model.presets.build_preset",
        "splade_bench.data.wordpiece.train_tokenizer",
        "splade_bench.data.embedded.embedded_corpus",
        "splade_bench.data.records.Triple",
        "splade_bench.training.Trainer",
        "splade_bench.training.TrainObserver",
        "splade_bench.training.TrainState",
        "splade_bench.training.TrainResult",
        "splade_bench.evaluation.evaluator.evaluate",
        "splade_bench.runtime.prepare_runtime",
    ),
    "Settings": (
        "splade_bench.TrainConfig",
        "splade_bench.MemoryConfig",
        "splade_bench.MEMORY_MODES",
        "splade_bench.memory_modes.memory_mode",
        "splade_bench.planner.free_memory.fastest_config",
    ),
    "Save a run and go on with it": (
        "splade_bench.training.checkpoints.Checkpoints",
        "splade_bench.training.checkpoints.Checkpoint",
        "splade_bench.training.saving.CheckpointSaver",
        "splade_bench.training.run_state.resume_run",
    ),
    "The head alone": ("splade_bench.model.splade_max", "splade_bench.model.splade_max_eager"),
    "In other trainers": (
        "splade_bench.hugging_face.loss.LeanSpladeLoss",
        "splade_bench.hugging_face.streaming.lean",
        "splade_bench.hugging_face.callback.MemoryCallback",
    ),
    "In tests": (
        "splade_bench.pytest_plugin.measure_memory",
        "splade_bench.pytest_plugin.measure_cell",
        "splade_bench.results.result.Result",
        "splade_bench.results.records.Measurement",
        "splade_bench.results.records.CallResult",
        "splade_bench.results.records.CellResult",
        "splade_bench.results.records.read_results",
    ),
    "Errors": tuple(
        f"splade_bench.errors.{name}"
        for name in ("SpladeBenchError", "ConfigError", "DataError", "PlanError", "TrainingError", "NotFiniteError")
    ),
}
_INTRODUCTION = """\
# API reference

`python benchmarks/api_reference.py docs/api.md` writes this page from the docstrings. The names on it are public, with
the members that it shows. So are the commands with their flags and exit codes, the pytest plugin with its options and
its mark `limit_peak_memory`, and the keys of records. Everything else may change in any version. How long a public name
stays: [CONTRIBUTING.md](../CONTRIBUTING.md#what-users-can-rely-on). Examples: [library.md](library.md),
[sentence-transformers.md](sentence-transformers.md), [measure-your-own-code.md](measure-your-own-code.md).
"""
_TITLES: Mapping[str, str] = {"parameters": "Arguments", "attributes": "Attributes", "raises": "Raises"}
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
_Documented = griffe.Class | griffe.Function | griffe.Attribute


@cache
def public_objects() -> dict[str, _Documented]:
    """Each public name, as it is imported, and what the source says of it."""
    package = griffe.load("splade_bench", search_paths=[ROOT], docstring_parser="google")
    objects = {}
    for name in (name for names in PUBLIC.values() for name in names):
        found = package[name.partition(".")[2]]
        objects[name] = found.final_target if found.is_alias else found
    return objects


def public_members(documented: _Documented, public: Collection[_Documented]) -> dict[str, _Documented]:
    """Fields, properties and methods of a class, with those of its bases here that are not public themselves."""
    if not isinstance(documented, griffe.Class):
        return {}
    members: dict[str, Any] = {**documented.inherited_members, **documented.members}
    found = {name: member.final_target if member.is_alias else member for name, member in members.items()}
    elsewhere = [one for one in public if one is not documented]
    return {name: member for name, member in found.items() if member.parent not in elsewhere and _is_shown(member)}


def _is_shown(member: _Documented) -> bool:
    is_field = isinstance(member, griffe.Attribute) and "property" not in member.labels
    is_record = member.parent is not None and "dataclass" in member.parent.labels
    # An override says what it does in its base, and an attribute without a word is not for users.
    is_silent = member.docstring is None and (isinstance(member, griffe.Function) or (is_field and not is_record))
    return not (member.name.startswith("_") or is_silent)


def reference() -> str:
    """The page as Markdown."""
    objects = public_objects()
    lines = [_INTRODUCTION]
    for section, names in PUBLIC.items():
        lines.append(f"## {section}\n")
        for name in names:
            lines.extend(_entry(name, objects[name], objects.values()))
    return "\n".join(lines)


def _entry(name: str, documented: _Documented, public: Collection[_Documented]) -> Iterator[str]:
    module, _, short = name.rpartition(".")
    yield f"### `{short}`\n"
    if "fixture" not in _decorators(documented):
        yield f"```python\nfrom {module} import {short}\n```\n"
    if signature := _signature(documented):
        yield f"`{signature}`\n"
    yield from _paragraphs(documented)
    members = [line for member in public_members(documented, public).values() for line in _member(member)]
    if members:
        yield "Members:\n"
        yield "\n".join(members) + "\n"


def _decorators(documented: _Documented) -> str:
    decorators = documented.decorators if isinstance(documented, griffe.Function) else []
    return " ".join(str(decorator.value) for decorator in decorators)


def _signature(documented: _Documented) -> str:
    """How it is called; nothing for what is not, for fixtures and for records, whose fields are listed."""
    if isinstance(documented, griffe.Function):
        return "" if "fixture" in _decorators(documented) else _call(documented.name, documented)
    if isinstance(documented, griffe.Class) and "dataclass" not in documented.labels:
        start = documented.members.get("__init__")
        return _call(documented.name, start) if isinstance(start, griffe.Function) else ""
    return _field(documented) if isinstance(documented, griffe.Attribute) else ""


def _field(attribute: _Documented) -> str:
    """Name, type and default."""
    annotation, value = getattr(attribute, "annotation", None), getattr(attribute, "value", None)
    named = attribute.name if annotation is None else f"{attribute.name}: {annotation}"
    is_simple = value is not None and "(" not in str(value) and "property" not in attribute.labels
    return f"{named} = {value}" if is_simple else named


def _call(name: str, function: griffe.Function) -> str:
    shown = re.sub(r"^[^(]*\((?:self|cls)(?:, )?", f"{name}(", function.signature(return_type=True, name=name))
    return re.sub(r" -> Self$", "", shown)


def _paragraphs(documented: _Documented) -> Iterator[str]:
    for section in documented.docstring.parsed if documented.docstring else ():
        if isinstance(section, griffe.DocstringSectionText):
            yield f"{_markdown(section.value)}\n"
        else:
            yield f"{_TITLES[section.kind.value]}:\n"
            yield "\n".join(f"- {_one_line(item)}" for item in _items(section)) + "\n"


def _member(member: _Documented) -> Iterator[str]:
    """A line of the list, with a list below it of what a method takes and raises."""
    shown = f"- `{_call(member.name, member) if isinstance(member, griffe.Function) else _field(member)}`"
    sections = member.docstring.parsed if member.docstring else []
    texts = [section.value for section in sections if isinstance(section, griffe.DocstringSectionText)]
    yield f"{shown}: {_one_line(' '.join(texts))}" if texts else shown
    for section in sections:
        if not isinstance(section, griffe.DocstringSectionText):
            for item in _items(section):
                raises = "raises " if section.kind.value == "raises" else ""
                yield f"  - {raises}{_one_line(item)}"


def _items(section: griffe.DocstringSection) -> Iterator[str]:
    for item in section.value:
        yield f"`{getattr(item, 'name', None) or item.annotation}`: {item.description}"


def _one_line(text: str) -> str:
    return " ".join(_markdown(text).split())


def _markdown(text: str) -> str:
    """Text with the marks of Sphinx, in those of Markdown: a name without its modules."""
    names = _ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    return names.replace("``", "`")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
