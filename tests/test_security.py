"""What the package must never do: run what it reads, or use the network unless a Hub id is given."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "splade_bench"

# Modules and functions that run, or can be made to run, what they read.
FORBIDDEN_MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
FORBIDDEN_CALLS = ("torch.load", "torch.save", "eval", "exec", "compile", "os.system", "os.popen", "__import__")
FORBIDDEN_KEYWORDS = {"allow_pickle": True, "trust_remote_code": True, "shell": True, "weights_only": False}
# (file, what) -> why it is allowed there.
ALLOWED: dict[tuple[str, str], str] = {}


def dotted(node: ast.expr) -> str:
    """``torch.load`` of an expression; "" if it is not a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in FORBIDDEN_MODULES:
                yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in FORBIDDEN_CALLS)
        if isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_CALLS:
            yield dotted(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield node.func.id
        if isinstance(node, ast.keyword) and node.arg in FORBIDDEN_KEYWORDS:
            is_safe = isinstance(node.value, ast.Constant) and node.value.value is not FORBIDDEN_KEYWORDS[node.arg]
            if not is_safe:
                yield node.arg


def test_the_package_runs_nothing_that_it_reads() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    found = {
        (path.relative_to(PACKAGE).as_posix(), what)
        for path in files
        for what in forbidden_in(path.read_text(encoding="utf-8"))
    }

    assert len(files) > 100
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "allowed, but not there any more"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import torch\nx = torch.load('f')", "torch.load"),
        ("from torch import save", "torch.save"),
        ("load = torch.load", "torch.load"),
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("import numpy\nnumpy.load('f', allow_pickle=True)", "allow_pickle"),
        ("M.from_pretrained(n, trust_remote_code=True)", "trust_remote_code"),
        ("M.from_pretrained(n, trust_remote_code=given)", "trust_remote_code"),
        ("subprocess.run('ls', shell=True)", "shell"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
    ],
)
def test_each_forbidden_thing_is_found(source: str, what: str) -> None:
    assert what in list(forbidden_in(source))


@pytest.mark.parametrize(
    "source", ["model.eval()", "load(file)", "M.from_pretrained(n, trust_remote_code=False)", "re.compile('a')"]
)
def test_what_only_looks_like_it_is_not(source: str) -> None:
    assert list(forbidden_in(source)) == []


def connect(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(0.01)
        client.connect(address)


def send(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", address)


@pytest.mark.parametrize(
    "use",
    [
        lambda: connect(("192.0.2.1", 80)),  # an address that documents may name, and nobody has
        lambda: connect(("example.invalid", 80)),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=0.01),
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: socket.gethostbyname("example.invalid"),
        lambda: send(("192.0.2.1", 53)),
        lambda: send(("example.invalid", 53)),
    ],
    ids=["connect", "connect by name", "create_connection", "getaddrinfo", "gethostbyname", "sendto", "sendto by name"],
)
def test_tests_cannot_use_the_network(use: Callable[[], object]) -> None:
    with pytest.raises(BaseException, match="tests do not use the network") as caught:
        use()

    assert not isinstance(caught.value, Exception)  # nothing that a library catches


def test_tests_can_use_this_computer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=1).close()


@pytest.mark.skipif(sys.platform == "win32", reason="sockets of Unix")
def test_tests_can_use_sockets_of_unix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a path may have about a hundred bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")


def test_processes_that_tests_start_are_offline() -> None:
    script = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"

    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert finished.stdout.strip() == "True"
