"""What a release is made of: the files of the wheel and of the sdist, and that both give the same wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path

import pytest

from splade_bench import __version__

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 2**20
MAX_SDIST_BYTES = 3 * 2**20
MAX_FILE_BYTES = 2**20  # of a file in the sdist: the committed results stay small

_BUILD = "import sys; from hatchling import build; print(getattr(build, 'build_' + sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, folder: Path) -> Path:
    """``kind`` is wheel or sdist."""
    pytest.importorskip("hatchling.build", reason="needs hatchling to build without a network")
    command = [sys.executable, "-c", _BUILD, kind, str(folder)]
    built = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=120)
    return folder / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def sdist_sizes(sdist: Path) -> Mapping[str, int]:
    """Bytes of each file, without the folder that has the version in its name."""
    with tarfile.open(sdist) as file:
        return {member.name.partition("/")[2]: member.size for member in file.getmembers()}


def committed() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("an sdist has no list of committed files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def test_all_places_name_the_same_version() -> None:
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert citation
    assert newest
    assert citation[1] == __version__
    assert newest[1] == "Unreleased" or re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", newest[1])


@pytest.mark.slow
def test_the_wheel_has_the_package_its_licence_and_its_entry_points_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    information = f"splade_bench-{__version__}.dist-info"
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}

    source = [path for path in (ROOT / "splade_bench").rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert names == {str(path.relative_to(ROOT)) for path in source} | {f"{information}/{name}" for name in about}
    assert {"splade_bench/py.typed", "splade_bench/report/templates/report.html.jinja"} <= names
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


@pytest.mark.slow
def test_the_metadata_have_what_an_index_shows(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        metadata = Parser().parsestr(file.read(f"splade_bench-{__version__}.dist-info/METADATA").decode())

    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# splade_bench" in metadata.get_payload()


@pytest.mark.slow
def test_the_sdist_has_all_that_is_committed_and_nothing_from_beside_it(sdist_sizes: Mapping[str, int]) -> None:
    names, expected = set(sdist_sizes) - {"PKG-INFO"}, committed()

    assert expected - names == set()
    assert {name.partition("/")[0] for name in names} == {name.partition("/")[0] for name in expected}


@pytest.mark.slow
def test_the_sdist_can_be_tested_and_is_small(sdist: Path, sdist_sizes: Mapping[str, int]) -> None:
    assert {"conftest.py", "tests/conftest.py", "tox.ini", "constraints.txt", "LICENSE"} <= set(sdist_sizes)
    assert max(sdist_sizes.values()) < MAX_FILE_BYTES
    assert sdist.stat().st_size < MAX_SDIST_BYTES


@pytest.mark.slow
def test_the_sdist_gives_the_same_wheel_byte_for_byte(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data") if sys.version_info >= (3, 12) else file.extractall(tmp_path)
    (source,) = tmp_path.iterdir()

    again = build("wheel", source, tmp_path)

    assert again.read_bytes() == wheel.read_bytes()
