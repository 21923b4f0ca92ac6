"""What `lint-imports` cannot see: what is imported at run time, how long files are, what Python 3.10 cannot read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "splade_bench"
MAX_LINES = 300


def packages_without_torch() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        contract for contract in settings["tool"]["importlinter"]["contracts"] if contract["type"] == "forbidden"
    )
    return list(contract["source_modules"])


def test_packages_without_torch_do_not_import_it_through_another_library() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__main__.py",)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    packages = packages_without_torch()
    light = [name for name in names if ".".join(name.split(".")[:2]) in packages]
    script = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in light)
    script += "print([name for name in ('torch', 'transformers') if name in sys.modules])"

    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert finished.stdout.strip() == "[]"
    assert {"splade_bench.results.records", "splade_bench.report.document", "splade_bench.bench.cells"} <= set(light)


def test_a_file_has_one_role_and_is_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}

    assert [path for path, count in lines.items() if count > MAX_LINES] == []


def test_a_class_variable_names_its_type() -> None:
    # Without it, Python 3.10 cannot read the hints of a message, and no worker starts.
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

    assert [path for path, text in texts.items() if re.search(r": ClassVar\b(?!\[)", text)] == []
    assert any(": ClassVar[" in text for text in texts.values())
