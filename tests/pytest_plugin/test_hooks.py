"""The name of a measured call is the same in every checkout."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.pytest_plugin.hooks import _call_text

pytestmark = pytest.mark.skipif(os.sep != "/", reason="the paths are those of other systems")
ROOT = "/home/user/project"


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (f"{ROOT}/data.bin", "rootdir/data.bin"),
        (f"/mnt{ROOT}/data.bin", f"/mnt{ROOT}/data.bin"),
        (f"{ROOT}-2/data.bin", f"{ROOT}-2/data.bin"),
        (f"--data={ROOT}/data.bin", "--data=rootdir/data.bin"),
        (f"cat {ROOT}/a,{ROOT}/b", "cat rootdir/a,rootdir/b"),
    ],
)
def test_the_root_is_replaced_where_a_path_begins(argument: str, shown: str) -> None:
    call = CallRequest(module="m", file=None, function="read", arguments=[argument], keywords={"more": [argument]})
    request: Any = SimpleNamespace(fixturenames=[], config=SimpleNamespace(rootpath=Path(ROOT)))

    assert _call_text(call, request) == f"read({shown!r}, more=[{shown!r}])"
