"""The public names: docs/api.md is made of their docstrings, and these say what a caller has to know."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

griffe = pytest.importorskip("griffe", reason="the reference is made with it")

from api_reference import PUBLIC, public_members, public_objects, reference  # noqa: E402

from splade_bench import errors  # noqa: E402

ROOT = Path(__file__).parents[2]
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
SETTINGS = ("splade_bench.TrainConfig", "splade_bench.MemoryConfig")
_IMPORT = re.compile(r"^ *from (splade_bench[\w.]*) import ([\w, ]+?) *(?:#.*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def objects() -> Mapping[str, Any]:
    return public_objects()


@pytest.fixture(scope="module")
def functions(objects: Mapping[str, Any]) -> Mapping[str, Any]:
    """Public functions, and the methods of public classes; a class is called by its start."""
    found = {name: one for name, one in objects.items() if isinstance(one, griffe.Function)}
    for name, one in objects.items():
        members = public_members(one, objects.values())
        found |= {f"{name}.{short}": member for short, member in members.items() if isinstance(member, griffe.Function)}
    return found


def test_the_page_is_the_one_that_the_command_writes() -> None:
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("name", [name for names in PUBLIC.values() for name in names])
def test_every_name_says_what_it_is(name: str, objects: Mapping[str, Any]) -> None:
    assert objects[name].docstring is not None


def test_every_method_property_and_setting_says_what_it_is(objects: Mapping[str, Any]) -> None:
    silent = []
    for name, one in objects.items():
        if not isinstance(one, griffe.Class):
            continue
        bases = [base for base in one.mro() if base is not one]
        for short, member in one.members.items():
            has_to = name in SETTINGS or "property" in member.labels or isinstance(member, griffe.Function)
            is_overriding = any(short in base.members for base in bases)  # and does what its base says
            if has_to and member.docstring is None and not is_overriding and not short.startswith("_"):
                silent.append(f"{name}.{short}")

    assert not silent


def test_every_error_that_a_function_raises_itself_is_in_its_docstring(functions: Mapping[str, Any]) -> None:
    unsaid = {
        name: missing
        for name, function in functions.items()
        if (missing := {error for error in raised(function) if error not in function.docstring.value})
    }

    assert not unsaid
    assert any(list(raised(function)) for function in functions.values())


def raised(function: Any) -> Iterator[str]:
    """The errors of this package in its ``raise`` statements."""
    (tree,) = ast.parse(textwrap.dedent(function.source)).body
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in ERRORS:
            yield ast.unparse(node.exc.func)


def test_every_function_of_tensors_says_their_shapes(functions: Mapping[str, Any]) -> None:
    shapeless, seen = [], 0
    for name, function in functions.items():
        types = [str(function.returns), *(str(parameter.annotation) for parameter in function.parameters)]
        if any("Tensor" in one and "dict" not in one for one in types):
            seen += 1
            if not re.search(r"\[[A-Z](, [A-Z])*]", function.docstring.value):
                shapeless.append(name)

    assert not shapeless
    assert seen >= 4


@pytest.mark.parametrize("package", ["splade_bench", "splade_bench.training", "splade_bench.model"])
def test_what_a_package_offers_is_public(package: str, objects: Mapping[str, Any]) -> None:
    offered = {name for name in import_module(package).__all__ if not name.startswith("__")}

    assert offered <= {one.name for one in objects.values()}


def test_what_the_guides_import_is_public(objects: Mapping[str, Any]) -> None:
    guides = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    imported = {
        name.strip()
        for guide in guides
        for _, names in _IMPORT.findall(guide.read_text(encoding="utf-8"))
        for name in names.split(",")
    }

    assert {"Trainer", "lean", "CheckpointSaver"} <= imported <= {one.name for one in objects.values()}


def test_every_name_can_be_imported_as_the_page_says() -> None:
    for module, names in _IMPORT.findall(reference()):
        if find_spec("sentence_transformers") or not module.startswith("splade_bench.hugging_face"):
            assert hasattr(import_module(module), names), module
