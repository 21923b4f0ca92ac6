"""The command that runs a module of this package in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

# ``python -m`` would search the current folder first. That is often a user's project, and one of its files may have the
# name of a standard module, such as random.py. So the folder is left out, and the package is the one of this process.
_RUN = """
import sys
if sys.path[0] == "":
    del sys.path[0]
from importlib.util import module_from_spec, spec_from_file_location
from os.path import dirname
from runpy import run_module
_, module, file = sys.argv[:3]
del sys.argv[1:3]
package = spec_from_file_location("splade_bench", file, submodule_search_locations=[dirname(file)])
sys.modules["splade_bench"] = module_from_spec(package)
package.loader.exec_module(sys.modules["splade_bench"])
run_module(module, run_name="__main__", alter_sys=True)
"""


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command for ``module``, as :func:`subprocess.Popen` takes it.

    Args:
        module: its whole name, such as ``splade_bench.bench.launcher``.
        arguments: its arguments.
    """
    package_file = Path(__file__).with_name("__init__.py")
    return (sys.executable, "-c", _RUN, module, str(package_file), *arguments)
